"""What went wrong in other stores of this kind, above all in etcd, each as a test that it cannot happen here."""
