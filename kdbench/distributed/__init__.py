"""Several processes for one run: devices, launch, heartbeat, and collectives between ranks."""
