"""The gate: Great Expectations suites over the manifests and over what fidelity measured."""
