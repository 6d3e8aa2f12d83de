"""Makes the cluster match the snapshot: deploys, scales, replaces and deletes applications.

It owns what is known of each running application (`ledger`), the rules for changing them
(`reconciler`), and what is reported to the control plane (`status`). It may import every other
package of the data plane.
"""
