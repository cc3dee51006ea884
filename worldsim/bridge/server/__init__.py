"""Server: one engine behind two sockets."""
