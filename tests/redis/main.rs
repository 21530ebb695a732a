//! Tests of redis.
