"""TLS files, credentials, and the tokens that a control plane leaves on its machine.

It owns where these files are and when they are read again. It may import gRPC and the modules of
`protocol` beside it. Users of the client import `Credentials` from `broadsheet`.
"""
