//! Behaviour of the whole program against real PostgreSQL servers. One binary; one module per behaviour; the harness
//! starts throwaway clusters. Tests that run for several version pairs are named `pair_SOURCE_TARGET::…`.

mod harness;
mod version_pairs;

mod aborted_cutover;
mod adversaries;
mod api_tls;
mod autovacuum;
mod bad_input;
mod bench_figures;
mod binary;
mod bulk;
mod cleanup;
mod connection;
mod copy;
mod crash_matrix;
mod dashboards;
mod demo;
mod deploy_examples;
mod documented_commands;
mod documented_connections;
mod documented_privileges;
mod governor;
mod joining;
mod json_output;
mod kubernetes;
mod live_workload;
mod local_cluster;
mod lockout;
mod matrix;
mod pgbouncer;
mod pgbouncer_migration;
mod post_data;
mod preflight;
mod publication;
mod random_histories;
mod relayed_copy;
mod replication_connection;
mod rollback;
mod row_comparison;
mod schema_changes;
mod secrets;
mod shapes;
mod slot;
mod snapshot;
mod status_page;
mod stream_exactness;
mod stream_faults;
mod stream_traps;
mod streaming_in_progress;
mod structure;
mod sudden_death;
mod target_failover;
mod transactions;
mod traps_document;
mod verification;
mod watched_sides;
mod whole_migration;

version_pairs::version_pairs! {
    pair_14_15 { 14 => 15:
        joining::a_table_that_is_written_to_joins_the_running_migration,
        matrix::every_type_arrives_unchanged_on_every_way,
        shapes::every_shape_of_table_arrives_by_copy_and_by_stream,
        snapshot::every_row_arrives_as_it_was_at_the_consistent_point,
        whole_migration::a_store_moves_under_load_and_nothing_is_lost_or_doubled,
        whole_migration::every_kind_of_row_and_change_arrives,
        whole_migration::sequences_end_exactly_as_they_were,
        whole_migration::after_the_cutover_the_source_refuses_every_write_and_says_where_to_go,
        stream_exactness::rows_that_are_hard_to_find_are_found,
        stream_exactness::odd_settings_of_servers_roles_and_databases_change_no_value,
        schema_changes::every_change_of_a_table_is_waited_for_and_its_remedy_is_enough,
    }
    pair_14_17 { 14 => 17:
        structure::every_change_of_the_target_is_found_and_mended_by_its_fix,
        structure::what_the_program_itself_does_to_either_side_is_no_difference,
        cleanup::nothing_is_left_after_a_cutover,
        cleanup::nothing_is_left_after_a_rollback,
        cleanup::nothing_is_left_after_an_abort_or_when_it_is_given_up,
        cleanup::the_way_back_to_a_lost_source_is_ended_on_the_target_alone,
        crash_matrix::a_cutover_struck_before_its_commit,
        crash_matrix::a_cutover_struck_at_its_commit_and_after,
        crash_matrix::a_rollback_struck_before_its_commit,
        crash_matrix::a_rollback_struck_at_its_commit_and_after,
        adversaries::whatever_they_try_nothing_that_was_acknowledged_is_lost,
        adversaries::commit_prepared_meets_no_fence_because_there_is_none_beside_it,
        adversaries::a_table_that_is_made_inside_the_blackout_ends_the_cutover,
        lockout::whoever_is_locked_out_is_let_in_again_by_a_rollback_and_by_cleanup,
        rollback::several_rehearsals_give_a_forecast_with_percentiles,
        rollback::a_rollback_after_a_million_writes_loses_none,
        rollback::a_changed_definition_in_the_window_is_reported_and_the_way_back_goes_on,
        rollback::there_and_back_and_there_again_under_load,
        rollback::the_window_outlives_the_program,
        rollback::a_rollback_is_rehearsed_and_nothing_is_moved_twice,
        rollback::without_a_way_back_none_is_left_behind,
        pgbouncer_migration::clients_of_a_pooler_move_to_the_target_without_an_error,
        pgbouncer_migration::there_and_back_again_by_rollbacks,
        joining::a_table_that_is_written_to_joins_the_running_migration,
        joining::partitions_that_come_while_streaming_join_with_the_rows_they_have,
        joining::a_partition_that_was_away_is_copied_again,
        joining::killed_at_12_random_moments_of_a_join_the_rows_are_identical,
        snapshot::every_row_arrives_as_it_was_at_the_consistent_point,
        whole_migration::a_store_moves_under_load_and_nothing_is_lost_or_doubled,
        whole_migration::every_kind_of_row_and_change_arrives,
        whole_migration::sequences_end_exactly_as_they_were,
        whole_migration::after_the_cutover_the_source_refuses_every_write_and_says_where_to_go,
        whole_migration::a_rehearsal_measures_the_pause_and_leaves_the_source_as_it_was,
        whole_migration::sigterm_stops_within_five_seconds_and_the_next_start_resumes,
        sudden_death::killed_at_50_random_moments_the_rows_are_identical_in_the_end,
        bulk::transactions_of_a_backlog_arrive_once_and_in_order,
        bulk::a_backlog_under_load_is_read_in_bulk_and_the_rest_streamed,
        bulk::killed_at_30_random_moments_of_bulk_and_streaming_the_rows_are_identical,
        stream_exactness::rows_that_are_hard_to_find_are_found,
        stream_exactness::changes_that_wait_for_the_target_are_applied_in_order,
        stream_exactness::odd_settings_of_servers_roles_and_databases_change_no_value,
        stream_exactness::the_neighbour_database_stays_where_it_is,
        streaming_in_progress::transactions_sent_in_parts_arrive_whole_or_not_at_all,
        streaming_in_progress::killed_while_transactions_are_under_way_nothing_is_lost_or_doubled,
        binary::every_portable_type_arrives_in_binary,
        binary::rows_that_are_hard_to_find_are_found_in_binary_too,
        binary::arrays_are_written_in_sets_like_everything_else,
        schema_changes::every_change_of_a_table_is_waited_for_and_its_remedy_is_enough,
        schema_changes::renamed_and_moved_tables_keep_their_rows,
        schema_changes::a_wait_in_the_middle_of_a_transaction_survives_sudden_death,
        schema_changes::rolled_back_and_anticipated_changes_are_not_waited_for,
        schema_changes::a_table_that_loses_its_key_is_not_known_by_it_any_more,
        schema_changes::existing_rows_that_a_change_left_different_are_copied_again,
    }
    pair_14_18 { 14 => 18:
        structure::every_change_of_the_target_is_found_and_mended_by_its_fix,
        structure::the_schemas_of_other_tests_are_alike_after_their_copy,
        joining::partitions_that_come_while_streaming_join_with_the_rows_they_have,
        matrix::every_type_arrives_unchanged_in_sets,
        matrix::every_type_arrives_unchanged_on_every_way,
        shapes::every_shape_of_table_arrives_by_copy_and_by_stream,
        transactions::every_kind_of_transaction_arrives,
        transactions::a_large_transaction_arrives_and_needs_no_memory,
        snapshot::every_row_arrives_as_it_was_at_the_consistent_point,
        whole_migration::a_store_moves_under_load_and_nothing_is_lost_or_doubled,
        whole_migration::every_kind_of_row_and_change_arrives,
        whole_migration::sequences_end_exactly_as_they_were,
        whole_migration::after_the_cutover_the_source_refuses_every_write_and_says_where_to_go,
        sudden_death::killed_at_6_random_moments_the_rows_are_identical_in_the_end,
        stream_exactness::rows_that_are_hard_to_find_are_found,
        stream_exactness::odd_settings_of_servers_roles_and_databases_change_no_value,
        schema_changes::every_change_of_a_table_is_waited_for_and_its_remedy_is_enough,
    }
    pair_15_16 { 15 => 16:
        whole_migration::every_kind_of_row_and_change_arrives,
        bulk::transactions_of_a_backlog_arrive_once_and_in_order,
        streaming_in_progress::transactions_sent_in_parts_arrive_whole_or_not_at_all,
        binary::every_portable_type_arrives_in_binary,
    }
    pair_15_17 { 15 => 17:
        matrix::every_type_arrives_unchanged_in_sets,
        matrix::every_type_arrives_unchanged_on_every_way,
        shapes::every_shape_of_table_arrives_by_copy_and_by_stream,
        transactions::every_kind_of_transaction_arrives,
        transactions::a_large_transaction_arrives_and_needs_no_memory,
    }
    pair_16_18 { 16 => 18:
        bulk::transactions_of_a_backlog_arrive_once_and_in_order,
    }
    pair_17_18 { 17 => 18:
        structure::every_change_of_the_target_is_found_and_mended_by_its_fix,
        structure::the_schemas_of_other_tests_are_alike_after_their_copy,
        joining::a_table_that_is_written_to_joins_the_running_migration,
        joining::partitions_that_come_while_streaming_join_with_the_rows_they_have,
        joining::a_partition_that_was_away_is_copied_again,
        matrix::every_type_arrives_unchanged_on_every_way,
        shapes::every_shape_of_table_arrives_by_copy_and_by_stream,
        snapshot::every_row_arrives_as_it_was_at_the_consistent_point,
        whole_migration::a_store_moves_under_load_and_nothing_is_lost_or_doubled,
        whole_migration::every_kind_of_row_and_change_arrives,
        whole_migration::sequences_end_exactly_as_they_were,
        whole_migration::after_the_cutover_the_source_refuses_every_write_and_says_where_to_go,
        whole_migration::a_rehearsal_measures_the_pause_and_leaves_the_source_as_it_was,
        bulk::transactions_of_a_backlog_arrive_once_and_in_order,
        bulk::a_backlog_under_load_is_read_in_bulk_and_the_rest_streamed,
        bulk::killed_at_8_random_moments_of_bulk_and_streaming_the_rows_are_identical,
        sudden_death::killed_at_6_random_moments_the_rows_are_identical_in_the_end,
        stream_exactness::rows_that_are_hard_to_find_are_found,
        stream_exactness::changes_that_wait_for_the_target_are_applied_in_order,
        stream_exactness::odd_settings_of_servers_roles_and_databases_change_no_value,
        stream_exactness::the_neighbour_database_stays_where_it_is,
        streaming_in_progress::transactions_sent_in_parts_arrive_whole_or_not_at_all,
        streaming_in_progress::killed_while_transactions_are_under_way_nothing_is_lost_or_doubled,
        binary::every_portable_type_arrives_in_binary,
        binary::rows_that_are_hard_to_find_are_found_in_binary_too,
        binary::arrays_are_written_in_sets_like_everything_else,
        schema_changes::every_change_of_a_table_is_waited_for_and_its_remedy_is_enough,
        schema_changes::renamed_and_moved_tables_keep_their_rows,
        schema_changes::a_wait_in_the_middle_of_a_transaction_survives_sudden_death,
        schema_changes::rolled_back_and_anticipated_changes_are_not_waited_for,
        schema_changes::existing_rows_that_a_change_left_different_are_copied_again,
    }
}

version_pairs::owned_pairs! {
    owner_15_17 { 15 => 17:
        structure::what_the_program_itself_does_to_either_side_is_no_difference,
        crash_matrix::a_cutover_struck_before_its_commit,
        crash_matrix::a_cutover_struck_at_its_commit_and_after,
        crash_matrix::a_rollback_struck_before_its_commit,
        crash_matrix::a_rollback_struck_at_its_commit_and_after,
        adversaries::whatever_they_try_nothing_that_was_acknowledged_is_lost,
        adversaries::commit_prepared_meets_no_fence_because_there_is_none_beside_it,
        adversaries::a_table_that_is_made_inside_the_blackout_ends_the_cutover,
        lockout::whoever_is_locked_out_is_let_in_again_by_a_rollback_and_by_cleanup,
        rollback::there_and_back_and_there_again_under_load,
        rollback::the_window_outlives_the_program,
        rollback::a_rollback_is_rehearsed_and_nothing_is_moved_twice,
        rollback::without_a_way_back_none_is_left_behind,
        rollback::a_rollback_after_a_million_writes_loses_none,
        rollback::a_changed_definition_in_the_window_is_reported_and_the_way_back_goes_on,
        cleanup::nothing_is_left_after_a_cutover,
        cleanup::nothing_is_left_after_a_rollback,
        cleanup::nothing_is_left_after_an_abort_or_when_it_is_given_up,
        cleanup::the_way_back_to_a_lost_source_is_ended_on_the_target_alone,
        pgbouncer_migration::clients_of_a_pooler_move_to_the_target_without_an_error,
        pgbouncer_migration::there_and_back_again_by_rollbacks,
        whole_migration::a_store_moves_under_load_and_nothing_is_lost_or_doubled,
        whole_migration::sequences_end_exactly_as_they_were,
        whole_migration::after_the_cutover_the_source_refuses_every_write_and_says_where_to_go,
        whole_migration::a_rehearsal_measures_the_pause_and_leaves_the_source_as_it_was,
        autovacuum::an_autovacuum_at_work_does_not_hold_the_cutover_up,
    }
}
