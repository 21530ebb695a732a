//! RocksDB, tuned as its wiki advises for point lookups, with a compaction filter for expiry.
//!
//! It has no insert-if-absent: a get and a put under a striped lock (`kv`), which does less than
//! its `TransactionDB` would with a lock and a batch for each key. Every put writes the log to the
//! kernel (`manual_wal_flush` is off), so that `Buffered` survives a kill.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{
    BlockBasedOptions, Cache, CompactionDecision, CompactionPri, DB, DataBlockIndexType, Options,
    WaitForCompactOptions, WriteBatch, WriteOptions,
};

use super::grouped::Batches;
use super::kv::{Pairs, expires_ms};
use super::ticker::Ticker;
use super::{CACHE_BYTES, Durability, Result, Setup};

pub struct Rocks {
    durability: Durability,
    ticker: Option<Ticker>,
    /// Values that expired before this are past, to the compaction filter.
    past_ms: Arc<AtomicU64>,
    removed: Arc<AtomicU64>,
    database: Arc<DB>,
}

impl Rocks {
    pub fn open(setup: &Setup) -> Result<Rocks> {
        let (past_ms, removed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut options = options()?;
        options.set_compaction_filter("expiry", {
            let (past_ms, removed) = (Arc::clone(&past_ms), Arc::clone(&removed));
            // Relaxed: the time is set before the compaction that is asked for, by a call.
            move |_, _, value| {
                if expires_ms(value).is_none_or(|ms| ms > past_ms.load(Ordering::Relaxed)) {
                    return CompactionDecision::Keep;
                }
                removed.fetch_add(1, Ordering::Relaxed);
                CompactionDecision::Remove
            }
        });
        let database = Arc::new(DB::open(&options, &setup.dir)?);
        let ticker = (setup.durability == Durability::Buffered).then(|| {
            let database = Arc::clone(&database);
            Ticker::start(move || Ok(database.flush_wal(true)?))
        });
        Ok(Rocks { durability: setup.durability, ticker, past_ms, removed, database })
    }

    fn writes(&self) -> WriteOptions {
        let mut writes = WriteOptions::default();
        writes.set_sync(self.durability == Durability::Synced);
        writes
    }
}

/// "Setup Options and Basic Tuning"; for point lookups a hash index in data blocks ("Data Block
/// Hash Index") and a bloom filter for whole keys in memtables too ("MemTable", "RocksDB Bloom
/// Filter"), since most claims meet an absent key; pipelined writes ("Pipelined Write"), and
/// recycled log files, which spare a sync the metadata ("WAL Recycle"). Nothing is compressed:
/// the build has no library for it, and random text would gain little.
fn options() -> Result<Options> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(usize::try_from(CACHE_BYTES)?));
    blocks.set_block_size(16 * 1024);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks.set_data_block_hash_ratio(0.75);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_bytes_per_sync(1 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compaction_pri(CompactionPri::MinOverlappingRatio);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_memtable_whole_key_filtering(true);
    options.set_enable_pipelined_write(true);
    options.set_max_background_jobs(4);
    options.set_recycle_log_file_num(4);
    Ok(options)
}

impl Pairs for Rocks {
    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.database.get_pinned(key)?.map_or(Ok(()), |value| see(&value))
    }

    fn put(&self, key: &[u8], value: &[u8], _: Option<u64>) -> Result<()> {
        Ok(self.database.put_opt(key, value, &self.writes())?)
    }

    fn sync(&self) -> Result<()> {
        self.ticker.as_ref().map_or(Ok(()), Ticker::check)?;
        self.database.flush_wal(true)?;
        Ok(self.database.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        self.past_ms.store(now_ms, Ordering::Relaxed);
        let before = self.removed.load(Ordering::Relaxed);
        self.database.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(Some(self.removed.load(Ordering::Relaxed) - before))
    }
}

impl Batches for Rocks {
    fn write(&self, batch: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut writes = WriteBatch::default();
        batch.iter().for_each(|(key, value)| writes.put(key, value));
        Ok(self.database.write_opt(writes, &self.writes())?)
    }
}
