"""Image data sets, resident or streamed, with stateless views."""
