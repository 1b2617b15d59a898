//! Shared parts of the integration tests: requirements, test ISOs, networks, processes, machines.
#![allow(dead_code, unused_imports, unused_macros)] // each test binary uses a part of it

pub mod browser;
pub mod container;
pub mod debian;
pub mod dhcp;
pub mod fault_proxy;
pub mod iso;
pub mod lan;
pub mod machine;
pub mod nbd;
pub mod nbd_clients;
pub mod needs;
pub mod nfs;
pub mod noise;
pub mod object_store;
pub mod page_cache;
pub mod ports;
pub mod reads;
pub mod rpc;
pub mod running;
pub mod slow_disk;
pub mod stage;
pub mod tree;
