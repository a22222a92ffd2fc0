-- A batch's state moves until it has ended; what was submitted never does.

CREATE FUNCTION melo_keep_submission() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.collection_id, NEW.submitted_by, NEW.submitted_at, NEW.edit_count, NEW.edits_digest,
        NEW.priority, NEW.deadline, NEW.training)
       IS DISTINCT FROM
       (OLD.id, OLD.collection_id, OLD.submitted_by, OLD.submitted_at, OLD.edit_count, OLD.edits_digest,
        OLD.priority, OLD.deadline, OLD.training)
       OR OLD.state IN ('rejected', 'applied') THEN
        RAISE EXCEPTION 'UPDATE on batches is refused: what was submitted, and how it ended, stays'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER keep_submission BEFORE UPDATE ON batches
    FOR EACH ROW EXECUTE FUNCTION melo_keep_submission();
