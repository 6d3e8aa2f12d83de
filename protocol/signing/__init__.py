"""Ed25519 signatures over what the control plane sends, and the formats of its keys. Pure.

It owns what is signed and how: key ids, PEM, contexts, and what makes a signature good. Files are
read and keys are made in `protocol.transport.key_files`. It may import the generated
`broadsheet.v1`, `protocol` and `cryptography`.
"""
