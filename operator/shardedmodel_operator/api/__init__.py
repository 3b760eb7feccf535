"""The custom resource: its fields, its checks, and what is generated from them (CRD, reference)."""
