//! The one bucket.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob,
    Timestamp,
};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

use crate::{Control, S3Server, locked};

/// The largest object that is taken.
const OBJECT_BYTES_MAX: usize = 128 * 1024 * 1024;

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    modified: SystemTime,
}

impl Stored {
    fn new(bytes: Bytes) -> Stored {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, &bytes).hash(&mut hasher);
            hasher.finish()
        };
        let etag = format!("{:016x}{:016x}", half(0), half(1));
        Stored { bytes, etag, modified: SystemTime::now() }
    }

    fn size(&self) -> i64 {
        i64::try_from(self.bytes.len()).unwrap_or(i64::MAX)
    }

    fn matches(&self, condition: &ETagCondition) -> bool {
        match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == self.etag,
        }
    }
}

/// The objects; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    objects: Arc<Mutex<BTreeMap<String, Stored>>>,
    control: Arc<Mutex<Control>>,
}

impl Bucket {
    pub(crate) fn new(control: Arc<Mutex<Control>>) -> Bucket {
        Bucket { objects: Arc::default(), control }
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        locked(&self.objects).keys().cloned().collect()
    }

    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        locked(&self.objects).get(key).map(|stored| stored.bytes.to_vec())
    }

    pub(crate) fn plant(&self, key: &str, bytes: Vec<u8>) {
        locked(&self.objects).insert(key.to_owned(), Stored::new(bytes.into()));
    }

    pub(crate) fn remove(&self, key: &str) -> bool {
        locked(&self.objects).remove(key).is_some()
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Stored> {
        check_bucket(bucket)?;
        let objects = locked(&self.objects);
        objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }

    fn check_conditions(&self, input: &PutObjectInput, standing: Option<&Stored>) -> S3Result<()> {
        let (ignores, refuses) = {
            let behaviour = &locked(&self.control).behaviour;
            (behaviour.ignores_conditions, behaviour.refuses_conditions)
        };
        if ignores {
            return Ok(());
        }
        if refuses && (input.if_none_match.is_some() || input.if_match.is_some()) {
            return Err(s3_error!(NotImplemented));
        }
        let failed = || s3_error!(PreconditionFailed, "At least one of the pre-conditions did not hold");
        if let (Some(condition), Some(stored)) = (&input.if_none_match, standing)
            && stored.matches(condition)
        {
            return Err(failed());
        }
        if let Some(condition) = &input.if_match
            && !standing.is_some_and(|stored| stored.matches(condition))
        {
            return Err(failed());
        }
        Ok(())
    }
}

fn check_bucket(bucket: &str) -> S3Result<()> {
    if bucket == S3Server::BUCKET {
        return Ok(());
    }
    Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"))
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let stored = self.find(&input.bucket, &input.key)?;
        if input.if_none_match.is_some_and(|condition| stored.matches(&condition)) {
            return Err(s3_error!(NotModified));
        }
        let whole = stored.bytes.len() as u64;
        let (bytes, content_range) = match input.range {
            None => (stored.bytes.clone(), None),
            Some(range) => {
                let range = range.check(whole).map_err(|_| s3_error!(InvalidRange))?;
                let text = format!("bytes {}-{}/{whole}", range.start, range.end.saturating_sub(1));
                let (start, end) = (range.start as usize, range.end as usize);
                (stored.bytes.slice(start..end), Some(text))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: i64::try_from(bytes.len()).ok(),
            body: Some(StreamingBlob::from(Body::from(bytes))),
            content_range,
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(Timestamp::from(stored.modified)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let stored = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(stored.size()),
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(Timestamp::from(stored.modified)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let mut input = request.input;
        check_bucket(&input.bucket)?;
        let standing = locked(&self.objects).get(&input.key).cloned();
        self.check_conditions(&input, standing.as_ref())?;
        let mut bytes = Vec::new();
        if let Some(mut body) = input.body.take() {
            while let Some(piece) = body.try_next().await.map_err(|_| s3_error!(IncompleteBody))? {
                bytes.extend_from_slice(&piece);
                if bytes.len() > OBJECT_BYTES_MAX {
                    return Err(s3_error!(EntityTooLarge));
                }
            }
        }
        // Somebody may have been faster while the body came in: one winner, under one lock.
        let mut objects = locked(&self.objects);
        self.check_conditions(&input, objects.get(&input.key))?;
        let stored = Stored::new(bytes.into());
        let etag = ETag::Strong(stored.etag.clone());
        objects.insert(input.key, stored);
        drop(objects);
        let control = locked(&self.control);
        let version_id = control.behaviour.versioned.then(|| format!("v{}", control.seen.puts));
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(etag), version_id, ..PutObjectOutput::default() }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        check_bucket(&request.input.bucket)?;
        self.remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        check_bucket(&input.bucket)?;
        let page = locked(&self.control).behaviour.page_entries.unwrap_or(1000);
        let asked = input.max_keys.and_then(|keys| usize::try_from(keys).ok()).unwrap_or(1000);
        let page = page.min(asked).max(1);
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after.clone());
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let objects = locked(&self.objects);
        let mut matching =
            objects.range((from, Bound::Unbounded)).filter(|(key, _)| key.starts_with(&prefix)).take(page + 1);
        let contents: Vec<Object> = matching
            .by_ref()
            .take(page)
            .map(|(key, stored)| Object {
                key: Some(key.clone()),
                size: Some(stored.size()),
                e_tag: Some(ETag::Strong(stored.etag.clone())),
                last_modified: Some(Timestamp::from(stored.modified)),
                ..Object::default()
            })
            .collect();
        let truncated = matching.next().is_some();
        let last = contents.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: i32::try_from(contents.len()).ok(),
            max_keys: i32::try_from(page).ok(),
            is_truncated: Some(truncated),
            next_continuation_token: if truncated { last } else { None },
            continuation_token: input.continuation_token,
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }
}
