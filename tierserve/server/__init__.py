"""OpenAI's API over aiohttp: reads requests, asks the pipeline, writes answers."""
