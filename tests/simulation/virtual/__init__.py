"""What stands in for the machine: a clock, tasks, a network, disks."""
