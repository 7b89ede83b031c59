"""How others come in: gRPC, health probes, metrics. Changes intent in etcd or asks the worker; knows no back end."""
