"""Measurements that describe a trained network, and their plots (`kdbench analyze`)."""
