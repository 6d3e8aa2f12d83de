"""`broadsheet dataplane`: starts or joins Ray, deploys the agent and the ingress, and ends them.

Owns the environment of a Ray that is started here, the records of the data planes that were
deployed to a cluster, and the commands `status` and `stop`. May import `agent`, `ingress` and
`relay`; only `__main__` imports it. Ray is imported after its environment is prepared.
"""
