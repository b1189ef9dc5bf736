"""What else decides beside the score: the threshold, the conversation, the cache, the queues."""
