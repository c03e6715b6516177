//! Addresses, and where settings come from.

use super::*;
use crate::options::Secret;

const SECRET: &str = "wJalrXUtnFEMI-K7MDENG";

fn around(variables: &[(&str, &str)]) -> Surroundings {
    let variables: Vec<(String, String)> =
        variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let variable = move |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Surroundings { variable: Box::new(variable), home: None }
}

fn open(url: &str, options: &RemoteOptions, variables: &[(&str, &str)]) -> Result<Bucket, RemoteError> {
    match Address::parse(url)? {
        Address::Bucket { bucket, prefix, endpoint, region } => {
            open_bucket(&bucket, &prefix, (endpoint, region), options, &around(variables), &Arc::default())
        }
        other => panic!("{other:?} is no bucket"),
    }
}

fn refused(url: &str, options: &RemoteOptions, variables: &[(&str, &str)]) -> RemoteError {
    match open(url, options, variables) {
        Ok(bucket) => panic!("{} was opened", bucket.place),
        Err(error) => error,
    }
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", SECRET)];

#[test]
fn folders_files_buckets_and_memory_are_told_apart() {
    let folder = |path: &str| Address::Folder(PathBuf::from(path));
    assert_eq!(Address::parse("sync/here").expect("valid"), folder("sync/here"));
    assert_eq!(Address::parse("C:\\sync").expect("valid"), folder("C:\\sync"));
    assert_eq!(Address::parse("file:///srv/a%20b").expect("valid"), folder("/srv/a b"));
    assert_eq!(Address::parse("memory:").expect("valid"), Address::Memory);
    let Address::Bucket { bucket, prefix, endpoint, region } =
        Address::parse("s3://my-bucket/team/app?endpoint=http://127.0.0.1:9000&region=x").expect("valid")
    else {
        panic!("no bucket")
    };
    assert_eq!(
        (bucket.as_str(), endpoint.as_deref(), region.as_deref()),
        ("my-bucket", Some("http://127.0.0.1:9000"), Some("x"))
    );
    assert_eq!(prefix.group().as_ref(), "team/app/group");
}

#[test]
fn bad_addresses_are_refused_without_showing_credentials() {
    for (url, part) in [
        ("", "empty"),
        ("gs://bucket/x", "only folders"),
        ("s3://", "s3://bucket/prefix"),
        ("s3://bucket:9000/x", "endpoint"),
        ("s3://bucket/../x%2e", "letters, digits"),
        ("s3://bucket/a b", "letters, digits"),
        ("s3://bucket/x?secret=wJalrXUtnFEMI-K7MDENG", "only ?endpoint="),
        ("s3://AKIDEXAMPLE:wJalrXUtnFEMI-K7MDENG@bucket/x", "credentials do not belong"),
    ] {
        let error = Address::parse(url).expect_err(url);
        let text = format!("{error} {error:?}");
        assert!(text.contains(part), "{url}: {text}");
        assert!(!text.contains(SECRET), "{url}: {text}");
    }
}

#[test]
fn plain_http_is_refused_by_the_name_of_the_flag() {
    let url = "s3://bucket/x?endpoint=http://127.0.0.1:9000";
    let error = refused(url, &RemoteOptions::default(), &KEYS);
    assert!(matches!(error, RemoteError::InsecureHttp { .. }), "{error:?}");
    assert!(error.to_string().contains("insecure_http"), "{error}");
    let options = RemoteOptions { insecure_http: true, ..RemoteOptions::default() };
    let bucket = open(url, &options, &KEYS).expect("allowed");
    assert_eq!(bucket.place, "s3://bucket/x at http://127.0.0.1:9000");
    // The client's own variable does not open that door.
    let variables = [KEYS[0], KEYS[1], ("AWS_ALLOW_HTTP", "true"), ("AWS_ENDPOINT_URL", "http://h.example")];
    let error = refused("s3://bucket/x", &RemoteOptions::default(), &variables);
    assert!(matches!(error, RemoteError::InsecureHttp { .. }), "{error:?}");
}

#[test]
fn options_win_over_the_address_and_that_over_variables() {
    let variables = [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL_S3", "https://variable.example")];
    let mut options = RemoteOptions::default();
    let place = |url: &str, options: &RemoteOptions| open(url, options, &variables).expect("valid").place;
    assert_eq!(place("s3://b/p", &options), "s3://b/p at https://variable.example");
    assert_eq!(place("s3://b/p?endpoint=https://address.example", &options), "s3://b/p at https://address.example");
    options.endpoint = Some("https://option.example".to_owned());
    assert_eq!(place("s3://b/p?endpoint=https://address.example", &options), "s3://b/p at https://option.example");
    options.path_style = false;
    let store = open("s3://b/p", &options, &variables).expect("valid").store;
    assert!(format!("{store:?}").contains("https://b.option.example"), "{store:?}");
}

#[test]
fn credentials_are_demanded_and_never_shown() {
    let options = RemoteOptions::default();
    let error = refused("s3://bucket/x", &options, &[]);
    assert!(matches!(error, RemoteError::NoCredentials { .. }), "{error:?}");
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    let error = refused("s3://bucket/x", &options, &KEYS[1..]);
    assert!(error.to_string().contains("only one of"), "{error}");
    let given = Credentials { session_token: Some(Secret::new("TOKEN-1")), ..Credentials::new("AKIDEXAMPLE", SECRET) };
    let options = RemoteOptions { credentials: Some(given), ..RemoteOptions::default() };
    let bucket = open("s3://bucket/x", &options, &[]).expect("valid");
    let text = format!("{options:?} {:?}", bucket.secrets);
    assert!(!text.contains(SECRET) && !text.contains("TOKEN-1") && !text.contains("AKIDEXAMPLE"), "{text}");
    let text = bucket.secrets.redact(&format!("key AKIDEXAMPLE, {SECRET}, TOKEN-1."));
    assert_eq!(text, "key (redacted), (redacted), (redacted).");
}

#[test]
fn an_endpoint_with_credentials_is_refused_without_showing_them() {
    let options = RemoteOptions { endpoint: Some(format!("https://u:{SECRET}@h.example")), ..RemoteOptions::default() };
    let error = refused("s3://bucket/x", &options, &KEYS);
    assert!(!format!("{error} {error:?}").contains(SECRET));
    assert!(format!("{options:?}").contains("h.example") && !format!("{options:?}").contains(SECRET));
}
