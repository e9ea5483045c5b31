"""The etcd v3 API of one member: gRPC services, and health, metrics and version over HTTP/1.1.

Translation only. What a request means and whether it is right is decided below, by kvstore.server; here it is taken
off the wire, handed over, and answered.
"""
