"""kvctl: the command line client, with the commands, flags and output of etcdctl.

Every command starts by importing little: click here, gRPC only in the commands that make a call.
"""
