"""The daemon: one member of a cluster, configured as an etcd member is."""
