//! Every function's overloads, as text: `name: id(args)result; ...`, a leading `.` for member overloads.
//!
//! The overload ids are cel-go's and upstream's; the cost model is defined over them.

use crate::types::Type;
use std::collections::HashMap;
use std::sync::OnceLock;

#[derive(Debug)]
pub struct Overload {
    pub id: &'static str,
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

/// Opaque types.
pub const QUANTITY: &str = "kubernetes.Quantity";
pub const URL: &str = "kubernetes.URL";
pub const IP: &str = "net.IP";
pub const CIDR: &str = "net.CIDR";
pub const FORMAT: &str = "kubernetes.NamedFormat";
pub const SEMVER: &str = "kubernetes.Semver";
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub const DECISION: &str = "kubernetes.authorization.Decision";

const NAMES: [(&str, &str); 11] = [
    ("quantity", QUANTITY),
    ("url", URL),
    ("ip", IP),
    ("cidr", CIDR),
    ("format", FORMAT),
    ("semver", SEMVER),
    ("authorizer", AUTHORIZER),
    ("pathcheck", PATH_CHECK),
    ("groupcheck", GROUP_CHECK),
    ("resourcecheck", RESOURCE_CHECK),
    ("decision", DECISION),
];

const STANDARD: &str = "
_+_: add_bytes(bytes,bytes)bytes; add_double(double,double)double; add_duration_duration(duration,duration)duration; add_duration_timestamp(duration,timestamp)timestamp; add_timestamp_duration(timestamp,duration)timestamp; add_int64(int,int)int; add_list(list<A>,list<A>)list<A>; add_string(string,string)string; add_uint64(uint,uint)uint
_-_: subtract_double(double,double)double; subtract_duration_duration(duration,duration)duration; subtract_int64(int,int)int; subtract_timestamp_duration(timestamp,duration)timestamp; subtract_timestamp_timestamp(timestamp,timestamp)duration; subtract_uint64(uint,uint)uint
_*_: multiply_double(double,double)double; multiply_int64(int,int)int; multiply_uint64(uint,uint)uint
_/_: divide_double(double,double)double; divide_int64(int,int)int; divide_uint64(uint,uint)uint
_%_: modulo_int64(int,int)int; modulo_uint64(uint,uint)uint
-_: negate_double(double)double; negate_int64(int)int
!_: logical_not(bool)bool
_&&_: logical_and(bool,bool)bool
_||_: logical_or(bool,bool)bool
_?_:_: conditional(bool,A,A)A
@not_strictly_false: not_strictly_false(bool)bool
_==_: equals(A,A)bool
_!=_: not_equals(A,A)bool
@in: in_list(A,list<A>)bool; in_map(A,map<A,B>)bool
_[_]: index_list(list<A>,int)A; index_map(map<A,B>,A)B; optional_list_index_int(optional<list<A>>,int)optional<A>; optional_map_index_value(optional<map<A,B>>,A)optional<B>
_[?_]: list_optindex_optional_int(list<A>,int)optional<A>; optional_list_optindex_optional_int(optional<list<A>>,int)optional<A>; map_optindex_optional_value(map<A,B>,A)optional<B>; optional_map_optindex_optional_value(optional<map<A,B>>,A)optional<B>
size: .bytes_size(bytes)int; size_bytes(bytes)int; .list_size(list<A>)int; size_list(list<A>)int; .map_size(map<A,B>)int; size_map(map<A,B>)int; .string_size(string)int; size_string(string)int
contains: .contains_string(string,string)bool
startsWith: .starts_with_string(string,string)bool
endsWith: .ends_with_string(string,string)bool
matches: matches(string,string)bool; .matches_string(string,string)bool
type: type(A)type
dyn: to_dyn(A)dyn
bool: bool_to_bool(bool)bool; string_to_bool(string)bool
bytes: bytes_to_bytes(bytes)bytes; string_to_bytes(string)bytes
double: double_to_double(double)double; int64_to_double(int)double; string_to_double(string)double; uint64_to_double(uint)double
duration: duration_to_duration(duration)duration; int64_to_duration(int)duration; string_to_duration(string)duration
int: int64_to_int64(int)int; double_to_int64(double)int; duration_to_int64(duration)int; string_to_int64(string)int; timestamp_to_int64(timestamp)int; uint64_to_int64(uint)int
string: string_to_string(string)string; bool_to_string(bool)string; bytes_to_string(bytes)string; double_to_string(double)string; duration_to_string(duration)string; int64_to_string(int)string; timestamp_to_string(timestamp)string; uint64_to_string(uint)string; ip_to_string(ip)string; cidr_to_string(cidr)string
timestamp: timestamp_to_timestamp(timestamp)timestamp; int64_to_timestamp(int)timestamp; string_to_timestamp(string)timestamp
uint: uint64_to_uint64(uint)uint; double_to_uint64(double)uint; int64_to_uint64(int)uint; string_to_uint64(string)uint
getFullYear: .timestamp_to_year(timestamp)int; .timestamp_to_year_with_tz(timestamp,string)int
getMonth: .timestamp_to_month(timestamp)int; .timestamp_to_month_with_tz(timestamp,string)int
getDate: .timestamp_to_day_of_month_1_based(timestamp)int; .timestamp_to_day_of_month_1_based_with_tz(timestamp,string)int
getDayOfMonth: .timestamp_to_day_of_month(timestamp)int; .timestamp_to_day_of_month_with_tz(timestamp,string)int
getDayOfWeek: .timestamp_to_day_of_week(timestamp)int; .timestamp_to_day_of_week_with_tz(timestamp,string)int
getDayOfYear: .timestamp_to_day_of_year(timestamp)int; .timestamp_to_day_of_year_with_tz(timestamp,string)int
getHours: .timestamp_to_hours(timestamp)int; .timestamp_to_hours_with_tz(timestamp,string)int; .duration_to_hours(duration)int
getMinutes: .timestamp_to_minutes(timestamp)int; .timestamp_to_minutes_with_tz(timestamp,string)int; .duration_to_minutes(duration)int
getSeconds: .timestamp_to_seconds(timestamp)int; .timestamp_to_seconds_tz(timestamp,string)int; .duration_to_seconds(duration)int
getMilliseconds: .timestamp_to_milliseconds(timestamp)int; .timestamp_to_milliseconds_with_tz(timestamp,string)int; .duration_to_milliseconds(duration)int
optional.of: optional_of(A)optional<A>
optional.ofNonZeroValue: optional_ofNonZeroValue(A)optional<A>
optional.none: optional_none()optional<A>
value: .optional_value(optional<A>)A
hasValue: .optional_hasValue(optional<A>)bool
or: .optional_or_optional(optional<A>,optional<A>)optional<A>
orValue: .optional_orValue_value(optional<A>,A)A
cel.@mapInsert: @mapInsert_map_map(map<A,B>,map<A,B>)map<A,B>; @mapInsert_map_key_value(map<A,B>,A,B)map<A,B>
";

const EXTENSIONS: &str = "
charAt: .string_char_at_int(string,int)string
indexOf: .string_index_of_string(string,string)int; .string_index_of_string_int(string,string,int)int; .list_a_index_of_int(list<A>,A)int
lastIndexOf: .string_last_index_of_string(string,string)int; .string_last_index_of_string_int(string,string,int)int; .list_a_last_index_of_int(list<A>,A)int
lowerAscii: .string_lower_ascii(string)string
upperAscii: .string_upper_ascii(string)string
replace: .string_replace_string_string(string,string,string)string; .string_replace_string_string_int(string,string,string,int)string
split: .string_split_string(string,string)list<string>; .string_split_string_int(string,string,int)list<string>
substring: .string_substring_int(string,int)string; .string_substring_int_int(string,int,int)string
trim: .string_trim(string)string
format: .string_format(string,list<dyn>)string
strings.quote: strings_quote(string)string
join: .list_join(list<string>)string; .list_join_string(list<string>,string)string
slice: .list_slice(list<A>,int,int)list<A>
flatten: .list_flatten(list<list<A>>)list<A>; .list_flatten_int(list<dyn>,int)list<dyn>
sort: .list_int_sort(list<int>)list<int>; .list_uint_sort(list<uint>)list<uint>; .list_double_sort(list<double>)list<double>; .list_bool_sort(list<bool>)list<bool>; .list_duration_sort(list<duration>)list<duration>; .list_timestamp_sort(list<timestamp>)list<timestamp>; .list_string_sort(list<string>)list<string>; .list_bytes_sort(list<bytes>)list<bytes>
@sortByAssociatedKeys: .list_int_sortByAssociatedKeys(list<A>,list<int>)list<A>; .list_uint_sortByAssociatedKeys(list<A>,list<uint>)list<A>; .list_double_sortByAssociatedKeys(list<A>,list<double>)list<A>; .list_bool_sortByAssociatedKeys(list<A>,list<bool>)list<A>; .list_duration_sortByAssociatedKeys(list<A>,list<duration>)list<A>; .list_timestamp_sortByAssociatedKeys(list<A>,list<timestamp>)list<A>; .list_string_sortByAssociatedKeys(list<A>,list<string>)list<A>; .list_bytes_sortByAssociatedKeys(list<A>,list<bytes>)list<A>
lists.range: lists_range(int)list<int>
reverse: .list_reverse(list<A>)list<A>
distinct: .list_distinct(list<A>)list<A>
first: .list_first(list<A>)optional<A>
last: .list_last(list<A>)optional<A>
sets.contains: list_sets_contains_list(list<A>,list<A>)bool
sets.equivalent: list_sets_equivalent_list(list<A>,list<A>)bool
sets.intersects: list_sets_intersects_list(list<A>,list<A>)bool
isSorted: .list_int_is_sorted_bool(list<int>)bool; .list_uint_is_sorted_bool(list<uint>)bool; .list_double_is_sorted_bool(list<double>)bool; .list_bool_is_sorted_bool(list<bool>)bool; .list_duration_is_sorted_bool(list<duration>)bool; .list_timestamp_is_sorted_bool(list<timestamp>)bool; .list_string_is_sorted_bool(list<string>)bool; .list_bytes_is_sorted_bool(list<bytes>)bool
sum: .list_int_sum_int(list<int>)int; .list_uint_sum_uint(list<uint>)uint; .list_double_sum_double(list<double>)double; .list_duration_sum_duration(list<duration>)duration
max: .list_int_max_int(list<int>)int; .list_uint_max_uint(list<uint>)uint; .list_double_max_double(list<double>)double; .list_bool_max_bool(list<bool>)bool; .list_duration_max_duration(list<duration>)duration; .list_timestamp_max_timestamp(list<timestamp>)timestamp; .list_string_max_string(list<string>)string; .list_bytes_max_bytes(list<bytes>)bytes
min: .list_int_min_int(list<int>)int; .list_uint_min_uint(list<uint>)uint; .list_double_min_double(list<double>)double; .list_bool_min_bool(list<bool>)bool; .list_duration_min_duration(list<duration>)duration; .list_timestamp_min_timestamp(list<timestamp>)timestamp; .list_string_min_string(list<string>)string; .list_bytes_min_bytes(list<bytes>)bytes
find: .string_find_string(string,string)string
findAll: .string_find_all_string(string,string)list<string>; .string_find_all_string_int(string,string,int)list<string>
url: string_to_url(string)url
isURL: is_url_string(string)bool
getScheme: .url_get_scheme(url)string
getHost: .url_get_host(url)string
getHostname: .url_get_hostname(url)string
getPort: .url_get_port(url)string
getEscapedPath: .url_get_escaped_path(url)string
getQuery: .url_get_query(url)map<string,list<string>>
quantity: string_to_quantity(string)quantity
isQuantity: is_quantity_string(string)bool
sign: .quantity_sign(quantity)int
isGreaterThan: .quantity_is_greater_than(quantity,quantity)bool; .semver_is_greater_than(semver,semver)bool
isLessThan: .quantity_is_less_than(quantity,quantity)bool; .semver_is_less_than(semver,semver)bool
compareTo: .quantity_compare_to(quantity,quantity)int; .semver_compare_to(semver,semver)int
asApproximateFloat: .quantity_get_float(quantity)double
asInteger: .quantity_get_int(quantity)int
isInteger: .quantity_is_integer(quantity)bool
add: .quantity_add(quantity,quantity)quantity; .quantity_add_int(quantity,int)quantity
sub: .quantity_sub(quantity,quantity)quantity; .quantity_sub_int(quantity,int)quantity
ip: string_to_ip(string)ip; .cidr_ip(cidr)ip
family: .ip_family(ip)int
ip.isCanonical: ip_is_canonical(string)bool
isUnspecified: .ip_is_unspecified(ip)bool
isLoopback: .ip_is_loopback(ip)bool
isLinkLocalMulticast: .ip_is_link_local_multicast(ip)bool
isLinkLocalUnicast: .ip_is_link_local_unicast(ip)bool
isGlobalUnicast: .ip_is_global_unicast(ip)bool
isIP: is_ip(string)bool
cidr: string_to_cidr(string)cidr
containsIP: .cidr_contains_ip_string(cidr,string)bool; .cidr_contains_ip_ip(cidr,ip)bool
containsCIDR: .cidr_contains_cidr_string(cidr,string)bool; .cidr_contains_cidr(cidr,cidr)bool
prefixLength: .cidr_prefix_length(cidr)int
masked: .cidr_masked(cidr)cidr
isCIDR: is_cidr(string)bool
validate: .format-validate(format,string)optional<list<string>>
format.named: format-named(string)optional<format>
format.dns1123Label: format.dns1123Label()format
format.dns1123Subdomain: format.dns1123Subdomain()format
format.dns1035Label: format.dns1035Label()format
format.qualifiedName: format.qualifiedName()format
format.dns1123LabelPrefix: format.dns1123LabelPrefix()format
format.dns1123SubdomainPrefix: format.dns1123SubdomainPrefix()format
format.dns1035LabelPrefix: format.dns1035LabelPrefix()format
format.labelValue: format.labelValue()format
format.uri: format.uri()format
format.uuid: format.uuid()format
format.byte: format.byte()format
format.date: format.date()format
format.datetime: format.datetime()format
semver: string_to_semver(string)semver; string_bool_to_semver(string,bool)semver
isSemver: is_semver_string(string)bool; is_semver_string_bool(string,bool)bool
major: .semver_major(semver)int
minor: .semver_minor(semver)int
patch: .semver_patch(semver)int
jsonpatch.escapeKey: string_jsonpatch_escapeKey_string(string)string
path: .authorizer_path(authorizer,string)pathcheck
group: .authorizer_group(authorizer,string)groupcheck
serviceAccount: .authorizer_serviceaccount(authorizer,string,string)authorizer
resource: .groupcheck_resource(groupcheck,string)resourcecheck
subresource: .resourcecheck_subresource(resourcecheck,string)resourcecheck
namespace: .resourcecheck_namespace(resourcecheck,string)resourcecheck
name: .resourcecheck_name(resourcecheck,string)resourcecheck
fieldSelector: .authorizer_fieldselector(resourcecheck,string)resourcecheck
labelSelector: .authorizer_labelselector(resourcecheck,string)resourcecheck
check: .pathcheck_check(pathcheck,string)decision; .resourcecheck_check(resourcecheck,string)decision
errored: .decision_errored(decision)bool
error: .decision_error(decision)string
allowed: .decision_allowed(decision)bool
reason: .decision_reason(decision)string
includes: .list_includes_dyn_dyn(dyn,dyn)bool
";

/// `_<_` and its kin: names of the operator and of its overloads.
const ORDERS: [(&str, &str); 4] =
    [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")];
const ORDERED: [(&str, &str); 14] = [
    ("bool", "bool,bool"),
    ("int64", "int,int"),
    ("int64_double", "int,double"),
    ("int64_uint64", "int,uint"),
    ("uint64", "uint,uint"),
    ("uint64_double", "uint,double"),
    ("uint64_int64", "uint,int"),
    ("double", "double,double"),
    ("double_int64", "double,int"),
    ("double_uint64", "double,uint"),
    ("string", "string,string"),
    ("bytes", "bytes,bytes"),
    ("timestamp", "timestamp,timestamp"),
    ("duration", "duration,duration"),
];

/// The overloads of every function.
pub fn table() -> &'static HashMap<&'static str, Vec<Overload>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Overload>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut out: HashMap<&'static str, Vec<Overload>> = HashMap::new();
        for line in STANDARD.lines().chain(EXTENSIONS.lines()).filter(|l| !l.is_empty()) {
            let Some((name, overloads)) = line.split_once(": ") else { continue };
            out.entry(name).or_default().extend(overloads.split("; ").filter_map(overload));
        }
        for (operator, word) in ORDERS {
            let list = out.entry(operator).or_default();
            for (suffix, args) in ORDERED {
                // Built once, kept for good.
                let id: &'static str = Box::leak(format!("{word}_{suffix}").into_boxed_str());
                list.push(Overload { id, member: false, args: types(args), result: Type::Bool });
            }
        }
        out
    })
}

fn overload(text: &'static str) -> Option<Overload> {
    let (member, text) = match text.strip_prefix('.') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (id, rest) = text.split_once('(')?;
    let (args, result) = rest.split_once(')')?;
    Some(Overload { id, member, args: types(args), result: ty(result) })
}

/// Splits at the commas outside of `<>`.
fn types(text: &str) -> Vec<Type> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    if text.is_empty() {
        return out;
    }
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(ty(&text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(ty(&text[start..]));
    out
}

fn ty(text: &str) -> Type {
    if let Some((outer, inner)) = text.split_once('<') {
        let mut inner = types(inner.strip_suffix('>').unwrap_or(inner)).into_iter();
        let mut next = || inner.next().unwrap_or(Type::Dyn);
        return match outer {
            "list" => Type::list(next()),
            "map" => Type::map(next(), next()),
            _ => Type::optional(next()),
        };
    }
    match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::Text,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "A" => Type::Param('A'),
        "B" => Type::Param('B'),
        other => NAMES.iter().find(|(n, _)| *n == other).map_or(Type::Dyn, |(_, full)| Type::Opaque(full)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        let lines = STANDARD.lines().chain(EXTENSIONS.lines()).filter(|l| !l.is_empty());
        let wanted: usize = lines.map(|l| l.split("; ").count()).sum();
        let got: usize = table().values().map(Vec::len).sum();
        assert_eq!(got, wanted + ORDERS.len() * ORDERED.len());
        assert_eq!(table()["getQuery"][0].result.to_string(), "map(string, list(string))");
    }
}
