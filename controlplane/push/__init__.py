"""From a commit to the data planes: fan-out, and one state machine a stream.

It owns the Sync streams and the chunks that they send. It may import `controlplane.fleet`,
`controlplane.store` and `controlplane.catalog`.
"""
