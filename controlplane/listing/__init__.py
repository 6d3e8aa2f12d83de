"""What a list is asked for: filters, field masks, order, and pages.

It owns the grammar of filters and the format of page tokens. Pure. It may import
`controlplane.catalog` and `protocol`.
"""
