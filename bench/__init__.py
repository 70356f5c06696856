"""`make bench`: what the control plane costs, as a distance to the same work in raw JMAP."""
