"""oslo.messaging and oslo.config, in the one room that knows them: octavia.conf, upstream's messages, notifications."""
