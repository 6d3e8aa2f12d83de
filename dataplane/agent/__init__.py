"""Makes the cluster match the snapshot: deploys, scales, puts to sleep, replaces and deletes
applications.

It owns what is known of each running application, and what is reported to the control plane. It may
import every other package of the data plane.
"""
