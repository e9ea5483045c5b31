"""The command line client, next to etcdctl where one is on the PATH."""
