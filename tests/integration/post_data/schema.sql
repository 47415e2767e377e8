-- Everything a post-data section can contain, with names and literals that look like something else.
CREATE SCHEMA "od;d; Type: INDEX";
CREATE EXTENSION btree_gist SCHEMA public;
CREATE FUNCTION public.folded(value text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT lower(value) || ';' $$;
CREATE FUNCTION public.silent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE FUNCTION public.nothing() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;

CREATE TABLE public.items (id int PRIMARY KEY, name text NOT NULL, doc jsonb, span int4range, day date, ref uuid NOT NULL);
INSERT INTO public.items SELECT i, 'name ' || i, '{"a": 1}', int4range(i, i + 1), '2024-01-01'::date + i, md5(i::text)::uuid FROM generate_series(1, 200) i;
CREATE INDEX by_expression ON public.items (lower(name), (id % 7));
CREATE INDEX by_function ON public.items (public.folded(name));
ALTER INDEX public.by_expression ALTER COLUMN 2 SET STATISTICS 500;
CREATE INDEX partial ON public.items (day DESC NULLS LAST) INCLUDE (name) WHERE name <> 'it''s; --
--
-- Name: not_an_object; Type: TABLE; Schema: public; Owner: -
--

\restrict x
$$';
CREATE INDEX by_document ON public.items USING gin (doc jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX by_trigram_like ON public.items USING btree (name COLLATE "C" text_pattern_ops);
ALTER TABLE public.items ADD CONSTRAINT deferrable_name UNIQUE (name) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE public.items ADD CONSTRAINT no_overlap EXCLUDE USING gist (span WITH &&, id public.gist_int4_ops WITH =) WHERE (id > 0);
CREATE UNIQUE INDEX by_ref ON public.items (ref);
ALTER TABLE public.items REPLICA IDENTITY USING INDEX by_ref;
ALTER TABLE public.items CLUSTER ON by_trigram_like;
ALTER TABLE public.items ADD CONSTRAINT not_checked CHECK (id < 1000) NOT VALID;
CREATE STATISTICS public.together (ndistinct, dependencies) ON name, day FROM public.items;
ALTER STATISTICS public.together SET STATISTICS 50;
COMMENT ON INDEX public.partial IS 'of one half;
-- Name: partial; Type: INDEX; Schema: public; Owner: -';
COMMENT ON CONSTRAINT items_pkey ON public.items IS 'the key';

CREATE TABLE "od;d; Type: INDEX"."Na.me; ""with
-- Name: everything" ("i d" int, "semi;colon" text, CONSTRAINT "key; of
it" PRIMARY KEY ("i d"));
INSERT INTO "od;d; Type: INDEX"."Na.me; ""with
-- Name: everything" VALUES (1, ';'), (2, E'\\'';');
CREATE INDEX "an index; Type: INDEX; Schema: public; Owner: x" ON "od;d; Type: INDEX"."Na.me; ""with
-- Name: everything" (("semi;colon" || E'\\'';--'));
CREATE INDEX "two
lines" ON "od;d; Type: INDEX"."Na.me; ""with
-- Name: everything" ("semi;colon");

CREATE TABLE public."a b" (id int, CONSTRAINT c UNIQUE (id));
CREATE TABLE public.a (id int, CONSTRAINT "b c" UNIQUE (id));
CREATE TABLE public.a$dollar$ (id int); CREATE INDEX an$index$ ON public.a$dollar$ (id);

CREATE TABLE public.parts (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM ('2024-07-01') TO ('2025-01-01') PARTITION BY LIST (id);
CREATE TABLE public.parts_2_rest PARTITION OF public.parts_2 DEFAULT;
CREATE INDEX parts_note ON public.parts (note);
CREATE INDEX alone ON public.parts_1 (day);
CREATE INDEX of_parent_only ON ONLY public.parts (day, note);
INSERT INTO public.parts SELECT i, '2024-01-01'::date + i % 300, 'note' FROM generate_series(1, 300) i;

CREATE TABLE public.parent (id int PRIMARY KEY, name text);
CREATE TABLE public.child (extra int, PRIMARY KEY (id)) INHERITS (public.parent);
CREATE INDEX child_name ON public.child (name);

CREATE TABLE public.lines (id int PRIMARY KEY, item int REFERENCES public.items ON DELETE CASCADE DEFERRABLE, part int, part_day date,
    CONSTRAINT "to parts" FOREIGN KEY (part, part_day) REFERENCES public.parts);
ALTER TABLE public.lines ADD CONSTRAINT "unchecked reference" FOREIGN KEY (id) REFERENCES public.items NOT VALID;
CREATE TRIGGER "before; lines" BEFORE INSERT OR UPDATE OF item ON public.lines FOR EACH ROW WHEN (new.id > 0) EXECUTE FUNCTION public.silent('it''s; "x"');
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.lines DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.silent();
ALTER TABLE public.lines DISABLE TRIGGER late; ALTER TABLE public.lines ENABLE ALWAYS TRIGGER "before; lines";
CREATE RULE audited AS ON DELETE TO public.lines WHERE old.id < 0 DO ALSO (INSERT INTO public.a VALUES (1); UPDATE public.a SET id = 2 WHERE false);
COMMENT ON RULE audited ON public.lines IS 'two; statements';
ALTER TABLE public.lines ENABLE ROW LEVEL SECURITY; ALTER TABLE public.lines FORCE ROW LEVEL SECURITY;
CREATE POLICY "own; lines" ON public.lines AS RESTRICTIVE FOR UPDATE TO PUBLIC USING (id > 0) WITH CHECK (id < 100);

CREATE MATERIALIZED VIEW public.totals AS SELECT day, count(*) AS items FROM public.items GROUP BY day;
CREATE UNIQUE INDEX totals_day ON public.totals (day);
CREATE VIEW public.named AS SELECT id, name FROM public.items GROUP BY id;
CREATE MATERIALIZED VIEW public.named_kept AS SELECT id, name FROM public.items GROUP BY id;
CREATE INDEX named_kept_id ON public.named_kept (id);

-- Relies on the primary key, so that the function is made behind it, and the index behind the function.
CREATE FUNCTION public.name_of(key int) RETURNS text IMMUTABLE LANGUAGE sql
BEGIN ATOMIC SELECT name FROM public.items WHERE id = key GROUP BY id; SELECT name FROM public.items WHERE id = key GROUP BY id; END;
CREATE TABLE public.named_lines (item int); INSERT INTO public.named_lines VALUES (1), (2);
CREATE INDEX named_lines_name ON public.named_lines (public.name_of(item));
CREATE INDEX named_lines_item ON public.named_lines (item);

CREATE EVENT TRIGGER "on; everything" ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.nothing();
