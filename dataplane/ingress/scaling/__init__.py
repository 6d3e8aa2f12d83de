"""How many ingress replicas a data plane has: what each has to do, and the policy of Ray Serve.

It owns the load of a replica and its metrics about itself. It may import nothing else of the data
plane: Ray Serve's controller imports the policy.
"""
