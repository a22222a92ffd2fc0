-- Where events went stays told.

-- Another address or other events are another webhook.
CREATE FUNCTION melo_keep_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.removed_at IS NOT NULL OR NEW.seen_seq < OLD.seen_seq
       OR (NEW.id, NEW.collection_id, NEW.url, NEW.events, NEW.description, NEW.created_by, NEW.created_at)
          IS DISTINCT FROM
          (OLD.id, OLD.collection_id, OLD.url, OLD.events, OLD.description, OLD.created_by, OLD.created_at)
       OR (NEW.removed_at IS NULL AND NEW.secret IS DISTINCT FROM OLD.secret) THEN
        RAISE EXCEPTION 'UPDATE on webhooks is refused: a webhook looks forward, and is removed once'
            USING ERRCODE = 'restrict_violation', HINT = 'Remove it and add another.';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_webhook BEFORE UPDATE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION melo_keep_webhook();

-- An event may be sent again, but neither as another nor once it has arrived or was given up.
CREATE FUNCTION melo_keep_delivery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.delivered_at IS NOT NULL OR OLD.failed_at IS NOT NULL
       OR (NEW.id, NEW.webhook_id, NEW.event_seq, NEW.message_id, NEW.payload, NEW.created_at)
          IS DISTINCT FROM
          (OLD.id, OLD.webhook_id, OLD.event_seq, OLD.message_id, OLD.payload, OLD.created_at) THEN
        RAISE EXCEPTION 'UPDATE on webhook_deliveries is refused: what was sent stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_delivery BEFORE UPDATE ON webhook_deliveries
    FOR EACH ROW EXECUTE FUNCTION melo_keep_delivery();
