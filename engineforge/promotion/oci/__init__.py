"""Where environments are: OCI repositories in registries, and OCI image layouts in folders and
buckets, so that every tool of that world reads them."""
