"""What touches the machine: TLS files, credentials, local tokens, and files of publishers.

It owns where its own files are and when they are read again. It may import gRPC and the modules of
`protocol` beside it. Users of the client import `Credentials` from `broadsheet`.
"""
