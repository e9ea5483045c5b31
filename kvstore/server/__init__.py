"""One member of a cluster: configuration, bootstrap, membership, the Ready loop, apply, reads, quota, compactor.

Decides; speaks to clients only through kvstore.api, to other members only through kvstore.peer.
"""
