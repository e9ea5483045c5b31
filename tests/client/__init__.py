"""The client library against real servers: this repository's and, where one is on the PATH, an etcd."""
