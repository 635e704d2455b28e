"""The wire: codec, connections, Cluster and Sentinel. Nothing here knows a stream."""
