"""The gRPC server, its services, and the handlers behind them.

It owns everything that surrounds an RPC: checks, statuses, logs and TLS. It may import every other
package of the control plane except `upkeep`.
"""
