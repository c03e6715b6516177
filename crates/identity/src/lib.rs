//! Who may take part in a group: device keys, the ids derived from them, enrolment, tickets and the group's own key.
//!
//! # Promise
//! Pure: no clock, no randomness, no I/O; both come in as arguments. Nothing that somebody sent is trusted: every length is bounded, every
//! signature is checked, and what is refused says why. No secret shows in `Debug` output or in an error.
//!
//! # Ids that prove themselves
//! A device has an Ed25519 key pair ([`DeviceSecret`], [`DeviceKey`]), and so an id. The id of a site, and that of a group, is a hash of the key of
//! the device that made it and of a nonce ([`site_id`], [`group_id`]): whoever shows both proves that the id is that device's, and
//! nobody can take the id of another's. No registry is asked, and two devices cannot disagree.
//!
//! # Membership
//! Who belongs to a group is a set of signed operations ([`MemberOp`]) that only grows. Each names the last operations that its author knew
//! (its parents). [`Membership::fold`] is a function of the set alone, so all replicas that hold the same set agree:
//!
//! * The group begins with `found`, signed by the device whose key the group's id is a hash of.
//! * `enrol`, `rename` and `revoke` count if their author belonged to the group as far as it could know: there is an enrolment of it in the
//!   past of the operation, and no revocation without a later enrolment.
//! * A revocation always wins against what is concurrent with it: an enrolment of the same device, and whatever the revoked device
//!   enrolled or renamed meanwhile. Only revocations that it made stand, so that two devices that revoke each other are both out: one
//!   of them may have been stolen, and nobody can know which. A device that is revoked can be enrolled again, knowingly.
//! * An operation whose parents are not all here waits ([`Membership::missing`]).
//!
//! # The group's key
//! What goes to a remote is sealed with a key that the devices of the group share ([`KeyRing`]). Each object has a key of its own, derived from the
//! group's key and a salt of 32 bytes, and is bound to the name under which it is put. The salt is a keyed hash of random bytes *and* of what
//! is sealed: a source of randomness that repeats itself, after a restored backup or a cloned machine, does not use a key twice
//! for different content. A rotation ([`Rotation`]) is a new key, wrapped for each remaining device and signed by the device that made it; old keys stay
//! for reading, the largest (epoch, id) is written with, so that rotations made at once need no order. A device's Ed25519 key serves for the wrapping too, on the
//! birationally equivalent curve (RFC 7748, 4.1), as libsodium and age do it; whoever is enrolled can be given a key without having been asked.
//!
//! # Formats
//! Integers of fixed width are big-endian, all else is postcard, accepted only in its one canonical form.
//!
//! ```text
//! operation  1 format (1), then postcard: group 16, parents [16 each, rising], author 32, action; then its signature, 64.
//!            What is signed: "isle member operation 1" and all that stands before the signature.
//!            Its id: the first 16 bytes of its BLAKE3 hash, the signature left out.
//! proof      of a version of a site: device 32, nonce 16 (with the device it makes the site's id), hash of the version's header 32, signature 64
//!            of "isle chain 1", group 16, site 16, version 8 and that hash.
//! sealed     "isle", "x", flags 0, format 2 (1); id of the key 16; salt 32; then AES-256-GCM (nonce 0, the key is this object's alone) of
//!            the content with its tag 16. Associated data: the first 24 bytes, then the object's name.
//! rotation   1 format (1), then postcard: group 16, epoch, id of the key 16, ephemeral X25519 key 32, boxes [48 each], signed; `signed`
//!            is sealed with the new key for the place "rotation" and holds: author 32, signature 64 of "isle key rotation 1" and all that
//!            stands before `signed`. So who holds a remote learns of no device, and who cannot open a box has nothing to check.
//! key file   lines of text; those that begin with "#" are for people, one is "islekey1" and base32, as below, of postcard: group 16,
//!            keys [epoch, secret 32, author 32 if known]; then 4 bytes of the BLAKE3 hash of all that.
//! ticket     "isle1" and base32 (RFC 4648, lower case, no padding) of postcard: group 16, inviter 32, secret 16,
//!            expiry in ms since 1970, addresses [text]; then 4 bytes of the BLAKE3 hash of all that.
//! ```

mod code;
mod ids;
mod key;
mod member;
mod proof;
mod ring;
mod rotation;
mod seal;
mod ticket;

pub use ids::{beacon, device_id, group_id, site_id};
pub use key::{DeviceKey, DeviceSecret, KeyError};
pub use member::{
    Action, Cut, Member, MemberError, MemberOp, Membership, NAME_BYTES_MAX, OP_BYTES_MAX, OPS_MAX, OPS_OF_ONE_MAX,
    OpId, PARENTS_MAX,
};
pub use proof::{PROOF_BYTES, ProofError, prove, proven};
pub use ring::{EPOCH_MAX, KEYS_MAX, KeyFileError, KeyRing};
pub use rotation::{RECIPIENTS_MAX, ROTATION_BYTES_MAX, Rotation, RotationError};
pub use seal::{GroupKey, KeyId, OVERHEAD_BYTES, SealError, sealed_with};
pub use ticket::{ADDRESSES_MAX, InviteSecret, Ticket, TicketError};
