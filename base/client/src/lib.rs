//! The only road to the API: clients, informers, work queues, events, leader election.
