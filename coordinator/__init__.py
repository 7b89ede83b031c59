"""All that speaks to etcd: the keyspace, the ownership protocol, the `drover` command. Knows nothing of storage."""
