//! Keywords that no function can be named by.

/// Whether the word (folded, unquoted) is a keyword that PostgreSQL's grammar takes for no function's name: a parenthesis
/// behind it belongs to a clause, a type, or an expression of the grammar's own, such as `coalesce`.
///
/// Its reserved keywords and those of its "column name" class, except `treat`, which calls any function it is given.
pub(super) fn is_no_function(word: &str) -> bool {
    NO_FUNCTION.binary_search(&word).is_ok()
}

/// Sorted; a test holds them against a real server.
#[rustfmt::skip]
pub const NO_FUNCTION: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "between", "bigint", "bit",
    "boolean", "both", "case", "cast", "char", "character", "check", "coalesce", "collate", "column", "constraint",
    "create", "current_catalog", "current_date", "current_role", "current_time", "current_timestamp", "current_user",
    "dec", "decimal", "default", "deferrable", "desc", "distinct", "do", "else", "end", "except", "exists", "extract",
    "false", "fetch", "float", "for", "foreign", "from", "grant", "greatest", "group", "grouping", "having", "in",
    "initially", "int", "integer", "intersect", "interval", "into", "lateral", "leading", "least", "limit",
    "localtime", "localtimestamp", "national", "nchar", "normalize", "not", "null", "nullif", "numeric", "offset",
    "on", "only", "or", "order", "overlay", "placing", "position", "precision", "primary", "real", "references",
    "returning", "row", "select", "session_user", "smallint", "some", "substring", "symmetric", "table", "then",
    "time", "timestamp", "to", "trailing", "trim", "true", "union", "unique", "user", "using", "values", "varchar",
    "variadic", "when", "where", "window", "with", "xmlattributes", "xmlconcat", "xmlelement", "xmlexists",
    "xmlforest", "xmlnamespaces", "xmlparse", "xmlpi", "xmlroot", "xmlserialize", "xmltable",
];
