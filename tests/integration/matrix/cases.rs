//! The matrix's data: types, each with values that are awkward for it. Code belongs elsewhere.

/// Whether a type's binary form means the same on another cluster (trap 16): what is expected, and held against what happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BinaryForm {
    /// And so does that of its array.
    WithArray,
    /// But not that of its array, which names its elements' type by the number that it has on its cluster.
    Alone,
    /// It has none, or none that means the same or can be read again.
    No,
}

/// A type and its values.
pub(super) struct TypeCases {
    /// As SQL names it; with length or precision where that matters.
    pub(super) sql: &'static str,
    /// Expressions, cast to the type.
    pub(super) values: &'static [&'static str],
    /// The first major version of the source that knows type and values.
    pub(super) since: u32,
    /// What is to be expected of its binary form.
    pub(super) binary: BinaryForm,
    /// The extension that brings the type.
    pub(super) extension: Option<&'static str>,
}

const fn of(sql: &'static str, values: &'static [&'static str]) -> TypeCases {
    TypeCases { sql, values, since: 0, binary: BinaryForm::WithArray, extension: None }
}

const fn since(major: u32, cases: TypeCases) -> TypeCases {
    TypeCases { since: major, ..cases }
}

const fn binary(binary: BinaryForm, cases: TypeCases) -> TypeCases {
    TypeCases { binary, ..cases }
}

const fn from(extension: &'static str, sql: &'static str, values: &'static [&'static str]) -> TypeCases {
    TypeCases { extension: Some(extension), binary: No, ..of(sql, values) }
}

use BinaryForm::{Alone, No};

/// Types that every PostgreSQL server has. The same type may stand here again: with a modifier, or for some versions.
pub(super) const BUILT_IN: &[TypeCases] = &[
    of("boolean", &["true", "false"]),
    of("smallint", &["0", "-32768", "32767"]),
    of("integer", &["0", "-2147483648", "2147483647", "1"]),
    of("bigint", &["0", "-9223372036854775808", "9223372036854775807", "2147483648"]),
    of(
        "real",
        &[
            "'0'",
            "'-0'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'1.4e-45'",
            "'3.4028235e38'",
            "'1.17549435e-38'",
            "0.1::real / 3",
            "'Infinity'::real - 'Infinity'::real",
            "16777217",
        ],
    ),
    of(
        "double precision",
        &[
            "'0'",
            "'-0'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'5e-324'",
            "'1.7976931348623157e308'",
            "'2.2250738585072014e-308'",
            "0.1::float8 + 0.2",
            "1::float8 / 3",
            "'Infinity'::float8 - 'Infinity'::float8",
        ],
    ),
    of(
        "numeric",
        &[
            "'0'",
            "'0.000'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'1.0'",
            "'1.00'",
            "'-12345678.90123456789000'",
            "('1' || repeat('0', 131071))",
            "('-' || repeat('9', 131072) || '.' || repeat('9', 16383))",
            "('0.' || repeat('0', 16382) || '1')",
            "1::numeric / 3",
            "'10000'",
            "'1e-4'",
        ],
    ),
    of("numeric(10,3)", &["'1.5'", "'-9999999.999'", "'NaN'", "0"]),
    of("numeric(1000,990)", &["'9999999999.' || repeat('9', 990)", "0"]),
    since(15, of("numeric(5,-2)", &["'1234567'", "'-50'", "'9999900'"])),
    since(15, of("numeric(3,5)", &["'0.00999'", "'-0.00001'", "0"])),
    of(
        "money",
        &["'0'", "'-0.01'", "'1234.56'", "'92233720368547758.07'", "(-92233720368547758.08)::numeric"],
    ),
    of(
        "text",
        &[
            "''",
            "' '",
            r"'\.'",
            r"E'\\.\n\\.\n'",
            r"E'a\tb\r\nc\rd\n'",
            r"'\N'",
            "'NULL'",
            "'null'",
            r"'\x00ff'",
            r#"'back\slash''quote"double'"#,
            "'{a,b}'",
            "'(a,b)'",
            "'$1'",
            "(SELECT string_agg(chr(i), '' ORDER BY i) FROM generate_series(1, 127) i)",
            // Every code point of the basic plane and of one beyond it: U+FEFF, surrogates' neighbours, combining, right to left.
            "(SELECT string_agg(chr(i), '' ORDER BY i) FROM generate_series(128, 65535) i WHERE i NOT BETWEEN 55296 AND 57343)",
            "(SELECT string_agg(chr(i), '' ORDER BY i) FROM generate_series(128512, 128591) i) || chr(1114111)",
            "chr(65279) || 'bom' || chr(8238) || 'rtl' || chr(768) || chr(55295) || chr(57344) || chr(65535)",
            "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i)",
        ],
    ),
    of("character varying", &["''", "'a '", r"E'\\'", "repeat('é', 300)"]),
    of("character varying(5)", &["''", "'ééééé'", "'a   '"]),
    of("bpchar", &["''", "'a'", "'b  '", "'   '"]),
    of("character(5)", &["''", "'a'", "'a b'", "'ééééé'", r"E'\t'"]),
    of(r#""char""#, &["'a'", "' '", "''", r"'\'", "''''", "'\"'", "','", "chr(1)", "chr(127)"]),
    of("name", &["''", "'a'", "repeat('x', 63)", "repeat('é', 31)", r#"'with "quotes" and \'"#]),
    of(
        "bytea",
        &[
            "''",
            r"'\x00'",
            r"'\x5c'",
            r"'\xff'",
            r"'\x5c2e0a'",
            "(SELECT string_agg(set_byte('\\x00', 0, i), '' ORDER BY i) FROM generate_series(0, 255) i)",
            "(SELECT string_agg(sha256(i::text::bytea), '') FROM generate_series(1, 400) i)",
        ],
    ),
    of(
        "date",
        &[
            "'4714-11-24 BC'",
            "'5874897-12-31'",
            "'infinity'",
            "'-infinity'",
            "'0001-12-31 BC'",
            "'2000-02-29'",
            "'0044-03-15 BC'",
        ],
    ),
    of("time", &["'00:00'", "'24:00:00'", "'23:59:59.999999'", "'12:34:56.7'"]),
    of("time(2)", &["'00:00'", "'23:59:59.99'"]),
    of(
        "time with time zone",
        &[
            "'00:00+00'",
            "'24:00:00-15:59:59'",
            "'23:59:59.999999+15:59:59'",
            "'12:00:00+05:53:28'",
            "'12:00-00:00:01'",
        ],
    ),
    of(
        "timestamp",
        &[
            "'4714-11-24 00:00:00 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'infinity'",
            "'-infinity'",
            "'0001-01-01 00:00:00 BC'",
            "'2024-02-03 04:05:06.789012'",
            "'1999-12-31 23:59:60'",
        ],
    ),
    of("timestamp(3)", &["'2024-02-03 04:05:06.789'", "'infinity'"]),
    of(
        "timestamp with time zone",
        &[
            "'4714-11-24 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'infinity'",
            "'-infinity'",
            "'1883-11-18 12:03:57 America/New_York'",
            "'2024-07-08 09:10:11.123456+05:45'",
            "'0001-01-01 00:00:00+00 BC'",
        ],
    ),
    of(
        "interval",
        &[
            "'0'",
            "'1 year 2 mons -3 days 04:05:06.789'",
            "'-1 year -2 mons +3 days -04:05:06.7'",
            "'-178000000 years'",
            "'178956970 years 7 mons'",
            "'2147483647 days'",
            "'-2147483648 days'",
            "'2147483647:59:59.999999'",
            "'-2147483647:59:59.999999'",
            "'-00:00:00.000001'",
            "'1 mon'",
            "'30 days'",
            "'720:00:00'",
        ],
    ),
    of("interval year to month", &["'3 years 4 mons'", "'-1 mon'"]),
    of("interval day to second(3)", &["'3 days 00:00:00.123'", "'-00:00:00.001'"]),
    since(15, of("interval", &["'2562047788:00:54.775807'", "'-2562047788:00:54.775807'"])),
    since(17, of("interval(6)", &["'infinity'", "'-infinity'", "'1 day'"])),
    of(
        "uuid",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "md5('a')"],
    ),
    of(
        "json",
        &[
            r#"' {"a" : 1, "a": 2,  "b":[ ] } '"#,
            r#"E'{"line":\n\t"break"}'"#,
            "'null'",
            r#"'"\u0000"'"#,
            "'1e400'",
            "'-0.0'",
            r#"'"\ud83d\ude00"'"#,
        ],
    ),
    of(
        "jsonb",
        &[
            r#"'{"a" : 1, "a": 2, "": [null, true, {"b": {}}]}'"#,
            "'null'",
            "'1.10'",
            "'-0.0'",
            "'1e30'",
            r#"'"\ud83d\ude00\\\"\n"'"#,
            "'[]'",
            "'{}'",
            "'\"\"'",
            "to_jsonb((SELECT array_agg(md5(i::text)) FROM generate_series(1, 200) i))",
        ],
    ),
    of(
        "jsonpath",
        &[
            "'$'",
            r#"'strict $.a[*] ? (@.b > 1 && @.c like_regex "^x" flag "iq")'"#,
            "'$.**{2 to last}'",
            r#"'$."key \"q\" é"[0 to last - 1]'"#,
            r#"'$.a.datetime("HH24:MI")'"#,
            "'$var + 1.5'",
            "'-$.x'",
            "'($.a + 2).type()'",
            r#"'exists($.a ? (@ starts with "b"))'"#,
        ],
    ),
    of(
        "xml",
        &[
            "''",
            "'text<a b=\"c &amp; d\"/><!-- x --><?pi y?>'",
            "'<a><![CDATA[<&>]]></a>'",
            "'<!DOCTYPE a [<!ENTITY e \"v\">]><a>x</a>'",
            "'<?xml version=\"1.1\"?><a/>'",
            "'<?xml version=\"1.0\" standalone=\"yes\"?><a>é</a>'",
            "E'<a>\\n\\t</a>'",
            "'&#233;'",
        ],
    ),
    of(
        "point",
        &[
            "'(1.5,-2.5)'",
            "'(Infinity,-Infinity)'",
            "'(NaN,0)'",
            "'(-0,0)'",
            "'(5e-324,1.7976931348623157e308)'",
            "point('Infinity'::float8 - 'Infinity'::float8, 0.1)",
        ],
    ),
    of(
        "lseg",
        &[
            "'[(1,2),(3,4)]'",
            "'[(-0,NaN),(Infinity,-Infinity)]'",
            "lseg(point('Infinity'::float8 - 'Infinity'::float8, 1), '(0,0)')",
        ],
    ),
    of("line", &["'{1,-1,0}'", "'{0.1,3,-0}'", "'{-1,0,Infinity}'"]),
    of("box", &["'(3,4),(1,2)'", "'(Infinity,0.1),(-Infinity,-0)'", "'(NaN,1),(0,0)'"]),
    of("path", &["'[(0,0),(1,1.5)]'", "'((0,0),(1,1.5),(-0,NaN))'", "'[(1e300,-1e-300)]'"]),
    of("polygon", &["'((0,0),(1,1.5),(2,0))'", "'((Infinity,-0),(NaN,1))'", "'((0.1,0.2))'"]),
    of("circle", &["'<(1,2),3>'", "'<(-0,0.1),0>'", "'<(NaN,Infinity),Infinity>'"]),
    of(
        "inet",
        &[
            "'192.168.0.1'",
            "'192.168.0.1/24'",
            "'::1'",
            "'::ffff:1.2.3.4/100'",
            "'0.0.0.0/0'",
            "'2001:db8::1/32'",
        ],
    ),
    of("cidr", &["'10.0.0.0/8'", "'192.168.1.1/32'", "'::/0'", "'2001:db8::/32'", "'0.0.0.0/0'"]),
    of("macaddr", &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'", "'08:00:2b:01:02:03'"]),
    of("macaddr8", &["'00:00:00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff:ff:ff'", "'08:00:2b:01:02:03:04:05'"]),
    of(r#""bit""#, &["B''", "B'1'", "B'101010101'", "repeat('10', 1000)::varbit"]),
    of("bit(9)", &["B'000000000'", "B'101010101'"]),
    of("bit varying", &["B''", "B'0'", "B'1111111'", "repeat('01', 1000)::varbit"]),
    of("bit varying(10)", &["B''", "B'0000000000'"]),
    of("oid", &["0", "1", "4294967295"]),
    of("xid", &["'0'", "'3'", "'4294967295'"]),
    of("xid8", &["'0'", "'3'", "'18446744073709551615'"]),
    of("cid", &["'0'", "'4294967295'"]),
    of("tid", &["'(0,0)'", "'(0,1)'", "'(4294967295,65535)'"]),
    binary(No, of("oidvector", &["''", "'0'", "'1 2 4294967295'"])),
    binary(No, of("int2vector", &["''", "'0'", "'1 -2 32767'"])),
    of("pg_lsn", &["'0/0'", "'16/B374D848'", "'FFFFFFFF/FFFFFFFF'"]),
    of("txid_snapshot", &["'10:10:'", "'10:20:10,14,15'"]),
    of("pg_snapshot", &["'10:10:'", "'10:20:10,14,15'", "'1:9223372036854775807:'"]),
    of("refcursor", &["''", "'my \"cursor\"'"]),
    binary(No, of("aclitem", &["'postgres=arwdDxt/postgres'", "'=r*/postgres'", "'pg_monitor=X/postgres'"])),
    since(17, binary(No, of("aclitem", &["'postgres=m/postgres'"]))),
    binary(
        No,
        of(
            "regclass",
            &["'pg_class'", r#"'"odd types"."Row Type"'"#, "0", "'pg_toast.pg_toast_1255'", "3999999999"],
        ),
    ),
    binary(No, of("regproc", &["'pg_catalog.now'", r#"'"odd types"."Only One"'"#, "0"])),
    binary(
        No,
        of(
            "regprocedure",
            &["'pg_catalog.abs(numeric)'", r#"'"odd types"."Only One"(integer)'"#, "'now()'", "0"],
        ),
    ),
    binary(No, of("regoper", &[r#"'"odd types".==='"#, "0"])),
    binary(
        No,
        of(
            "regoperator",
            &["'+(integer,integer)'", r#"'"odd types".===(integer,integer)'"#, "'-(none,integer)'", "0"],
        ),
    ),
    binary(
        No,
        of(
            "regtype",
            &[
                "'integer'",
                "'timestamp with time zone'",
                r#"'"odd types".mood[]'"#,
                r#"'"odd types".pair'"#,
                r#"'"char"'"#,
                "0",
                "'bpchar'",
                r#"'"bit"'"#,
            ],
        ),
    ),
    binary(No, of("regrole", &["'postgres'", "'pg_monitor'", "0"])),
    binary(No, of("regnamespace", &["'pg_catalog'", r#"'"odd types"'"#, "0"])),
    binary(No, of("regconfig", &["'english'", "'simple'", r#"'"odd types"."Config"'"#])),
    binary(No, of("regdictionary", &["'simple'", r#"'"odd types"."Dict"'"#])),
    binary(No, of("regcollation", &[r#"'"C"'"#, r#"'"default"'"#, r#"'"odd types"."Coll"'"#, "0"])),
    of(
        "tsvector",
        &[
            "''",
            "'a b c'",
            r"'a:1A,2B fat:3,16383 ''quo''''te'':4C '' '' back\\\\slash'",
            "to_tsvector('english', 'The fat cats sat')",
            "strip('a:1 b:2') || setweight('c:7', 'D')",
            "array_to_tsvector(array['z', 'y', 'x'])",
        ],
    ),
    binary(
        No,
        of(
            "tsquery",
            &[
                "''",
                "'b & a'",
                "'!a & (c | b) <-> ''d e'':*AB'",
                "'a <3> b <0> c'",
                "phraseto_tsquery('english', 'the fat cats')",
                "'zz | ''q''''q'' & !!b'",
            ],
        ),
    ),
    of(
        "int4range",
        &["'empty'", "'(,)'", "'[1,10)'", "'[-2147483648,2147483647)'", "'[,5)'", "'(5,)'", "'[1,1]'"],
    ),
    of("int8range", &["'empty'", "'(,)'", "'[-9223372036854775808,9223372036854775807)'"]),
    of("numrange", &["'empty'", "'[1.0,1.00]'", "'(NaN,)'", "'(1.50,Infinity]'", "'[-Infinity,0)'"]),
    of("daterange", &["'empty'", "'[infinity,infinity]'", "'[4714-11-24 BC,2000-01-01)'", "'[2000-01-01,)'"]),
    of("tsrange", &["'empty'", "'[-infinity,infinity]'", "'(2024-01-01 00:00,2024-01-01 00:00:00.000001)'"]),
    of("tstzrange", &["'empty'", "'[\"2024-01-01 00:00+00\",\"2024-03-01 00:00+01\")'", "'(,infinity)'"]),
    of("int4multirange", &["'{}'", "'{[1,2),[5,9)}'", "'{(,)}'", "'{(,1),[7,)}'"]),
    of("int8multirange", &["'{}'", "'{[-9223372036854775808,0),[5,)}'"]),
    of("nummultirange", &["'{}'", "'{[1.0,1.50),(2,3.000]}'", "'{(,NaN]}'"]),
    of("datemultirange", &["'{}'", "'{[2000-01-01,2001-01-01),[infinity,infinity]}'"]),
    of("tsmultirange", &["'{}'", "'{[\"0044-03-15 00:00:00 BC\",2000-01-01 01:02:03.4),(infinity,)}'"]),
    of("tstzmultirange", &["'{}'", "'{[2000-01-01 00:00+00,2001-01-01 00:00+05:45)}'"]),
    binary(Alone, of("information_schema.sql_identifier", &["'a'", "''", "'with \"quote'"])),
    binary(Alone, of("information_schema.yes_or_no", &["'YES'", "'NO'"])),
];

/// Built-in types that are not in the matrix, each with the reason.
pub(super) const LEFT_OUT: &[(&str, &str)] = &[
    ("pg_node_tree", REFUSES),
    ("pg_ndistinct", REFUSES),
    ("pg_dependencies", REFUSES),
    ("pg_mcv_list", REFUSES),
    ("pg_brin_bloom_summary", REFUSES),
    ("pg_brin_minmax_multi_summary", REFUSES),
    ("gtsvector", REFUSES),
];

const REFUSES: &str =
    "its input function refuses every value: not even PostgreSQL's own dump can restore a column of it";

/// Types that `objects.sql` makes.
pub(super) const OWN: &[TypeCases] = &[
    binary(
        Alone,
        of(
            r#""odd types".mood"#,
            &[
                "'ok'",
                "'with space'",
                "'quote''s'",
                "'double\"quote'",
                "'comma,{brace}(paren)'",
                r"'back\slash'",
                "'NULL'",
                "'null'",
                "'ünï'",
                "'-'",
                "'added later'",
                "'sixty-three bytes of label, which is as long as a label may be!'",
            ],
        ),
    ),
    binary(Alone, of(r#""odd types".positive"#, &["1", "2147483647"])),
    binary(Alone, of(r#""odd types".nested"#, &["1", "999999"])),
    binary(Alone, of(r#""odd types".short_text"#, &["''", "'12345678'", "'a,b\"{}'"])),
    binary(Alone, of(r#""odd types".padded"#, &["''", "'a'", "'abcdef'"])),
    binary(Alone, of(r#""odd types".good_mood"#, &["'ok'", "'NULL'", "'quote''s'"])),
    binary(
        Alone,
        of(r#""odd types".int_list"#, &["'{}'", "'{1,NULL,3}'", "'[-1:0]={1,2}'", "'{{1},{NULL}}'"]),
    ),
    binary(
        No,
        of(r#""odd types".moods"#, &["'{}'", "ARRAY['null','NULL',NULL,'quote''s']::\"odd types\".mood[]"]),
    ),
    binary(Alone, of(r#""odd types".span"#, &["'[1,5)'", "'empty'", "'(,5)'"])),
    binary(
        Alone,
        of(
            r#""odd types".real_number"#,
            &["'NaN'", "'-0'", "0.1::float8 + 0.2", "'Infinity'::float8 - 'Infinity'::float8"],
        ),
    ),
    binary(
        No,
        of(
            r#""odd types".pair"#,
            &["(NULL, NULL)", "(1, '')", "(0, 'NULL')", r#"(-1, E'a\tb\\\n"(),''')"#, "(7, NULL)"],
        ),
    ),
    binary(No, of(r#""odd types".full_pair"#, &["'(1,)'", "'(2,\"b,c\")'"])),
    binary(
        No,
        of(r#""odd types".pairs"#, &["'{}'", "ARRAY[(1, 'a'), NULL, (NULL, '\"')]::\"odd types\".pair[]"]),
    ),
    binary(No, of(r#""odd types".shrunk"#, &["(1, 1.50)", "(NULL, 'NaN')"])),
    binary(No, of(r#""odd types".nothing"#, &["'()'"])),
    binary(
        No,
        of(
            r#""odd types"."Row Type""#,
            &["(1, 'b', '-0')", "(NULL, '', 'NaN')", "(2, NULL, 'Infinity'::float8 - 'Infinity'::float8)"],
        ),
    ),
    binary(
        Alone,
        of(
            r#""odd types".float_range"#,
            &[
                "'empty'",
                "'[-0,0.1)'",
                "'(,NaN]'",
                "'[0,0]'",
                "'[-0,0]'",
                "\"odd types\".float_range(1, 'Infinity'::float8 - 'Infinity'::float8, '[]')",
            ],
        ),
    ),
    binary(Alone, of(r#""odd types".float_multirange"#, &["'{}'", "'{[-0,0.1),(Infinity,NaN]}'"])),
    binary(
        Alone,
        of(
            r#""odd types".text_range"#,
            &["'empty'", "'[\"\",\"a,b\")'", r#"'("\\","é)"]'"#, "'(,\"\"\"\"]'"],
        ),
    ),
    binary(Alone, of(r#""odd types".text_multirange"#, &["'{}'", "'{[\"\",a),[\"b c\",)}'"])),
    binary(
        Alone,
        of(r#""odd types".mood_range"#, &["'[added later,\"with space\"]'", "'[null,)'", "'empty'"]),
    ),
    binary(Alone, of(r#""odd types".mood_multirange"#, &["'{[ok,ok],[NULL,\"null\"]}'", "'{}'"])),
    binary(
        No,
        of(r#""odd types".pair_range"#, &["\"odd types\".pair_range((1,'a'), (1,'b,\"'))", "'empty'"]),
    ),
    binary(
        Alone,
        of(r#""odd types".list_range"#, &["\"odd types\".list_range('{1,NULL}', '{2}')", "'(,{}]'"]),
    ),
    binary(
        No,
        of(
            r#""odd types".nest"#,
            &[
                "ROW((1, 'a'), ARRAY[(2, 'b,\"'), NULL]::\"odd types\".pair[], 'quote''s', ARRAY['null', NULL, 'ok']::\"odd types\".mood[], 5, ARRAY[6, NULL], '(3,)', \
          '[-0,NaN]', '-0', ',', '<a b=\"c\"/>', 1.5)",
                "ROW(NULL, '{}', NULL, '{}', NULL, '{}', NULL, 'empty', 'NaN', ' ', '', 'NaN')",
                "ROW((NULL, NULL), NULL, 'NULL', NULL, 1, NULL, NULL, NULL, 'Infinity'::float8 - 'Infinity'::float8, '', NULL, 0)",
            ],
        ),
    ),
];

/// Types of extensions that come with PostgreSQL, in schema `"ext"`.
pub(super) const OF_EXTENSIONS: &[TypeCases] = &[
    from(
        "hstore",
        "ext.hstore",
        &["''", "'a=>1, b=>NULL, \"\"=>\"\"'", r#"'"q\"u" => "NULL", "b\\s" => " => "'"#],
    ),
    from("citext", "ext.citext", &["''", "'MiXeD'", "'straße'", "'a '"]),
    from("ltree", "ext.ltree", &["''", "'Top'", "'Top.Science.a_1'"]),
    from("ltree", "ext.lquery", &["'Top.*{1,2}.!a|b*@%'", "'*'"]),
    from("ltree", "ext.ltxtquery", &["'Europe & Russia*@ & !Transportation'"]),
    from("isn", "ext.ean13", &["'9780393040029'", "'2-99999-999999-3!'"]),
    from("isn", "ext.isbn13", &["'978-0-393-04002-9'"]),
    from("isn", "ext.ismn13", &["'979-0-060-11561-5'"]),
    from("isn", "ext.issn13", &["'977-1436452-00-8'"]),
    from("isn", "ext.isbn", &["'0-393-04002-X'"]),
    from("isn", "ext.ismn", &["'M-060-11561-5'"]),
    from("isn", "ext.issn", &["'1436-4522'"]),
    from("isn", "ext.upc", &["'220356483481'"]),
    from("cube", "ext.cube", &["'(1,2,3)'", "'(1),(2)'", "'(0.1,-0),(NaN,Infinity)'", "'()'"]),
    from("seg", "ext.seg", &["'1.50'", "'~1 .. <2.0'", "'1.5(+-)0.5'", "'5 ..'", "'.. -0.0'"]),
    from("intarray", "ext.query_int", &["'1&(2|!3)'", "'7'"]),
    binary(Alone, from("lo", "ext.lo", &["'0'", "'4294967295'"])),
    from("earthdistance", "ext.earth", &["ext.ll_to_earth(52.5, 13.4)"]),
];
