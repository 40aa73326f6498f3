"""What runs on the head of a cluster: answers to calls, and the dispatcher."""
