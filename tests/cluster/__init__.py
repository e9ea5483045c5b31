"""Clusters of real processes, as clients and operators see them."""
