"""What tests begin with: checkpoints, layouts, plans, caches, pods and objects of the cluster."""
