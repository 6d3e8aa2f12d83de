"""Snapshots as files, and the weights that go with them. Pure.

It owns the formats: `content` is the snapshot, as on the disks of data planes, and `weights` is
what may follow it in an exported bundle. It may import `protocol` and the generated code of
`broadsheet.v1`.
"""
