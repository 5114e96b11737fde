"""The log's tables, as numbered migrations: the number in `user_version` have been applied."""


def _keep_usage(size: str) -> str:
    """Triggers that keep the table `usage`; size: SQL for the bytes of row {}."""
    added = f"""
        INSERT INTO usage VALUES (COALESCE(NEW.label, ''), 1, {size.format("NEW")})
        ON CONFLICT (label) DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes;"""
    removed = f"""
        UPDATE usage SET rows = rows - 1, bytes = bytes - {size.format("OLD")}
        WHERE label = COALESCE(OLD.label, '');"""
    return f"""
    CREATE TRIGGER sample_added AFTER INSERT ON sample BEGIN {added} END;
    CREATE TRIGGER sample_removed AFTER DELETE ON sample BEGIN {removed} END;
    CREATE TRIGGER sample_relabelled AFTER UPDATE OF label ON sample BEGIN {removed} {added} END;
    """


MIGRATIONS = [
    """
    CREATE TABLE sample (
        row INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, id TEXT NOT NULL,
        source TEXT NOT NULL, ts REAL NOT NULL, label TEXT, held INTEGER NOT NULL,
        unlearnt INTEGER NOT NULL DEFAULT 0, payload BLOB NOT NULL);
    CREATE INDEX unlabelled ON sample (row) WHERE label IS NULL;
    CREATE INDEX labelled ON sample (label, key) WHERE label IS NOT NULL;
    CREATE INDEX unlearnt ON sample (row) WHERE unlearnt;
    CREATE TABLE usage (  -- rows and bytes kept of each label, '' for none; kept by the triggers
        label TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
    """ + _keep_usage("LENGTH({}.payload)") + """
    CREATE TABLE gone (key BLOB PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE label (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, row INTEGER NOT NULL, previous TEXT, label TEXT,
        source TEXT NOT NULL, ts REAL NOT NULL, hit INTEGER);
    CREATE INDEX label_row ON label (row, seq);
    CREATE TABLE pending (key BLOB PRIMARY KEY, id TEXT NOT NULL, label TEXT, unlearn INTEGER,
        source TEXT NOT NULL, ts REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE prediction (row INTEGER PRIMARY KEY, label TEXT, body BLOB NOT NULL);
    CREATE TABLE quarantine (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL NOT NULL, topic TEXT NOT NULL,
        reason TEXT NOT NULL, content_type TEXT, user TEXT NOT NULL, payload BLOB NOT NULL);
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,
        retain INTEGER NOT NULL);
    CREATE TABLE growth (number INTEGER PRIMARY KEY, cursor INTEGER NOT NULL, recipe TEXT NOT NULL,
        closed INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE verdict (growth INTEGER NOT NULL, block INTEGER NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (growth, block)) WITHOUT ROWID;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
    """,
    """
    -- Rows of `payload` come in order and never change, so that SQLite moves none of them within
    -- the file until one is deleted: what is overwritten there is gone.
    CREATE TABLE payload (row INTEGER PRIMARY KEY, packed BLOB NOT NULL);
    INSERT INTO payload SELECT row, payload FROM sample ORDER BY row;
    INSERT INTO meta SELECT 'moved', 1 WHERE EXISTS (SELECT 1 FROM sample);
    DROP TRIGGER sample_added;
    DROP TRIGGER sample_removed;
    DROP TRIGGER sample_relabelled;
    ALTER TABLE sample ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE sample SET bytes = LENGTH(payload);
    ALTER TABLE sample DROP COLUMN payload;
    """ + _keep_usage("{}.bytes") + """
    CREATE TABLE unlearning (  -- what was asked to be unlearnt; sample.unlearnt is its number
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, asked TEXT NOT NULL,
        phase TEXT NOT NULL, plan TEXT NOT NULL, answer TEXT NOT NULL, ts REAL NOT NULL);
    CREATE INDEX unfinished ON unlearning (number) WHERE phase != 'done';
    -- Of a sample that left: first is its first label where that was erased too, and mark the
    -- label from which on nothing knows of it; without a mark it was evicted.
    ALTER TABLE gone ADD COLUMN row INTEGER;
    ALTER TABLE gone ADD COLUMN source TEXT;
    ALTER TABLE gone ADD COLUMN ts REAL;
    ALTER TABLE gone ADD COLUMN held INTEGER;
    ALTER TABLE gone ADD COLUMN first INTEGER;
    ALTER TABLE gone ADD COLUMN mark INTEGER;
    ALTER TABLE gone ADD COLUMN unlearnt INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX forgotten ON gone (mark) WHERE mark IS NOT NULL;
    CREATE INDEX gone_unlearnt ON gone (unlearnt) WHERE unlearnt;
    INSERT INTO unlearning (asked, phase, plan, answer, ts)
        SELECT json_object('args', json_object('ids', json_group_array(id))), 'asked', '{}', '{}', 0
        FROM sample WHERE unlearnt GROUP BY unlearnt;
    UPDATE sample SET unlearnt = 0;
    INSERT OR IGNORE INTO gone (key, at, mark) SELECT key, ts, 0 FROM pending WHERE unlearn;
    DELETE FROM pending WHERE unlearn;
    ALTER TABLE pending DROP COLUMN unlearn;
    """,
    """
    CREATE TABLE aside (  -- labels of distrusted sources
        row INTEGER NOT NULL, source TEXT NOT NULL, label TEXT NOT NULL, ts REAL NOT NULL,
        PRIMARY KEY (row, source)) WITHOUT ROWID;
    CREATE TRIGGER aside_removed AFTER DELETE ON sample BEGIN
        DELETE FROM aside WHERE row = OLD.row;
    END;
    """,
    """
    ALTER TABLE label ADD COLUMN mid INTEGER;  -- packet id of the message that brought it
    """,
    """
    -- What would otherwise be counted, or written whole, over and over: how many labels proved
    -- their predictions right, kept by the triggers; and lately whose labels of a class did not.
    CREATE TABLE scored (right INTEGER NOT NULL, labels INTEGER NOT NULL);
    INSERT INTO scored SELECT COALESCE(SUM(hit), 0), COUNT(hit) FROM label;
    CREATE TRIGGER label_scored AFTER INSERT ON label WHEN NEW.hit IS NOT NULL BEGIN
        UPDATE scored SET right = right + NEW.hit, labels = labels + 1;
    END;
    CREATE TRIGGER label_erased AFTER UPDATE OF hit ON label WHEN OLD.hit IS NOT NULL BEGIN
        UPDATE scored SET right = right - OLD.hit + COALESCE(NEW.hit, 0),
            labels = labels - (NEW.hit IS NULL);
    END;
    CREATE TRIGGER label_removed AFTER DELETE ON label WHEN OLD.hit IS NOT NULL BEGIN
        UPDATE scored SET right = right - OLD.hit, labels = labels - 1;
    END;
    CREATE TABLE misses (label TEXT PRIMARY KEY, by_source TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO misses SELECT one.key, one.value
        FROM meta, json_each(meta.value, '$.recent') one WHERE meta.name = 'sources';
    -- What was learnt is never forgotten: its `at` is infinite, and only the others are looked at.
    UPDATE gone SET at = 9e999 WHERE EXISTS (SELECT 1 FROM label l WHERE l.row = gone.row);
    CREATE INDEX gone_at ON gone (at) WHERE mark IS NULL;
    """,
    """
    ALTER TABLE aside RENAME TO distrusted;
    UPDATE meta SET name = 'quotas' WHERE name = 'admission';
    UPDATE meta SET name = 'renumbered' WHERE name = 'epoch';
    """,
]
