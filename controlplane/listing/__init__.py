"""Lists and updates: filters, order, pages, and field masks.

It owns the grammar of filters and the format of page tokens. Pure. It may import
`controlplane.catalog`, `controlplane.errors` and `protocol`.
"""
