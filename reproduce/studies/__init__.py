"""The studies that come with the package, as data: each a folder with its study.yaml and its network."""
