-- What is asked of the messages about alerts every second, whatever lies there of the past: who was told about an alert, what waits for a
-- receiver, and when a receiver was last reached.
CREATE INDEX alert_messages_alert ON alert_messages (alert_id, receiver);
CREATE INDEX alert_messages_waiting ON alert_messages (receiver) WHERE sent_at IS NULL AND given_up = 0;
CREATE INDEX alert_messages_reached ON alert_messages (receiver, sent_at);
