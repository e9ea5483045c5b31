"""The load generator: measures kvstore, etcd, or both against each other."""
