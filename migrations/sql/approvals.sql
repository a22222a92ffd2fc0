-- Nothing is trained, applied or active without the approvals that its collection asks for, whatever the code does.

-- Who may approve is the policy's to say.
CREATE FUNCTION melo_require_right_to_approve() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    batch batches%ROWTYPE;
    policy collections%ROWTYPE;
BEGIN
    SELECT * INTO batch FROM batches WHERE id = NEW.batch_id;
    SELECT * INTO policy FROM collections WHERE id = batch.collection_id;
    IF batch.state NOT IN ('submitted', 'failed', 'cancelled') THEN
        RAISE EXCEPTION 'batch % cannot be approved: it is %', batch.id, batch.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.actor = batch.submitted_by AND NOT policy.self_approval THEN
        RAISE EXCEPTION 'batch % cannot be approved by %, who submitted it', batch.id, NEW.actor
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF cardinality(policy.approvers) > 0 AND NOT NEW.actor = ANY (policy.approvers) THEN
        RAISE EXCEPTION 'batch % cannot be approved by %, who is not among the approvers of %',
            batch.id, NEW.actor, policy.name USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT unnest(NEW.declined) EXCEPT SELECT id FROM edits WHERE batch_id = NEW.batch_id) THEN
        RAISE EXCEPTION 'an approval of batch % declines edits that are not in it', batch.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_right_to_approve BEFORE INSERT ON approvals
    FOR EACH ROW EXECUTE FUNCTION melo_require_right_to_approve();

-- A batch goes on only with the approvals that its collection asks for at that moment; the number asked for stays.
CREATE FUNCTION melo_require_approvals_of_batch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    policy collections%ROWTYPE;
    asked integer := OLD.approvals_needed;
    given bigint;
    deciding boolean := NEW.state = 'approved' AND OLD.state IN ('submitted', 'failed', 'cancelled');
BEGIN
    SELECT * INTO policy FROM collections WHERE id = NEW.collection_id;
    IF deciding THEN
        asked := policy.approvals_needed;
    END IF;
    IF NEW.approvals_needed IS DISTINCT FROM asked THEN
        RAISE EXCEPTION 'batch % needs % approvals, not %', NEW.id, asked, NEW.approvals_needed
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state IN ('approved', 'training', 'applied') THEN
        -- Later, somebody who approved may have left: that takes nothing back.
        SELECT count(*) INTO given FROM approvals
            WHERE batch_id = NEW.id AND (NOT deciding OR (
                (cardinality(policy.approvers) = 0 OR actor = ANY (policy.approvers))
                AND (policy.self_approval OR actor <> NEW.submitted_by)));
        IF asked IS NULL OR given < asked THEN
            RAISE EXCEPTION 'batch % has % of % approvals', NEW.id, given, asked USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_approvals BEFORE UPDATE ON batches
    FOR EACH ROW EXECUTE FUNCTION melo_require_approvals_of_batch();

-- An applied batch always carries its approvals.
CREATE FUNCTION melo_require_approvals_of_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    asked integer;
    given bigint;
BEGIN
    SELECT approvals_needed INTO asked FROM batches WHERE id = NEW.batch_id;
    SELECT count(*) INTO given FROM approvals WHERE batch_id = NEW.batch_id;
    IF given < coalesce(asked, 1) THEN
        RAISE EXCEPTION 'version % of collection % cannot apply batch %, which has % of % approvals',
            NEW.number, NEW.collection_id, NEW.batch_id, given, coalesce(asked, 1) USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER require_approvals BEFORE INSERT ON versions
    FOR EACH ROW WHEN (NEW.kind = 'apply') EXECUTE FUNCTION melo_require_approvals_of_version();

-- And so does every edit that ever acts. (Per statement: one query for a batch of any size; INTERSECT, because each
-- edit is then not compared with all that were declined.)
CREATE FUNCTION melo_require_approvals_of_edits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE refused bigint;
BEGIN
    WITH batch AS MATERIALIZED (
        SELECT e.batch_id AS id, min(e.id) AS edit_id FROM opened n JOIN edits e ON e.id = n.edit_id GROUP BY e.batch_id
    )
    SELECT r.edit_id INTO refused FROM (
        SELECT o.edit_id FROM batch o JOIN batches b ON b.id = o.id
            WHERE (SELECT count(*) FROM approvals a WHERE a.batch_id = b.id) < coalesce(b.approvals_needed, 1)
        UNION ALL
        (SELECT edit_id FROM opened
            INTERSECT SELECT unnest(a.declined) FROM batch o JOIN approvals a ON a.batch_id = o.id)
    ) r LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'edit % cannot become active: it was declined, or its batch lacks approvals', refused
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER require_approvals AFTER INSERT ON activations REFERENCING NEW TABLE AS opened
    FOR EACH STATEMENT EXECUTE FUNCTION melo_require_approvals_of_edits();
