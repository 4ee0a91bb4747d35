"""Tables of FLOPs and sizes."""
